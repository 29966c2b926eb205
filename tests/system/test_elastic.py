"""Ranks that are lost in a run with `--elastic`: the others finish it, and it is the undisturbed run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from moec.cli.replanning import nearest_degrees
from moec.runtime.elastic import check_elastic, outlive
from moec.runtime.errors import EnvironmentMismatch, ExitCode, NumericalError, UserError
from moec.runtime.transport.api import Transport, TransportError
from moec.runtime.transport.single import SingleTransport
from system.command_line import MODEL, losses, moec, moec_process, sets, status, succeed

ON_THREE = ("parallel.shard=3", "parallel.expert=3", "train.checkpoint.every=3")


@pytest.mark.mpi
@pytest.mark.parametrize("rank", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_survivors_finish_the_run(tmp_path: Path, text: Path, finished: Path, rank: int) -> None:
    """Whatever rank is killed. 1e-5: sums of fp32 in another order, over ten steps of small numbers."""
    told = moec_process(
        *("run", "tiny", "-n", "3", *sets(*MODEL, *ON_THREE), "--data", text, "--out", tmp_path / "run"),
        *("--elastic", "--enable-fault-injection"),
        env={"MOEC_FAULT": f"kill@rank={rank},step=5"},
    )
    assert told.code == 0, told.err
    assert "going on with 2 of 3 ranks" in told.err
    assert f"rank {rank} is gone" in told.err
    verdict = status(tmp_path / "run")
    assert (verdict["state"], verdict["world"], verdict["step"]) == ("complete", 2, 10)
    assert losses(tmp_path / "run") == pytest.approx(losses(finished), rel=1e-5)


def test_elastic_needs_a_job_that_outlives_a_rank(tmp_path: Path, bundle: Path, text: Path) -> None:
    with pytest.raises(EnvironmentMismatch, match="--with-ft ulfm"):
        check_elastic(SingleTransport())
    told = moec("run", bundle, "--data", text, "--out", tmp_path / "run", "--elastic")
    assert told.code == ExitCode.ENVIRONMENT
    assert "--with-ft ulfm" in told.text


@pytest.mark.parametrize(
    ("degrees", "ranks", "wanted"),
    [
        ("shard=4 expert=4", 3, {"replicate": 1, "shard": 3, "expert": 3, "expert_shard": 1}),
        ("shard=4 expert=2", 3, {"replicate": 1, "shard": 3, "expert": 3, "expert_shard": 1}),
        ("shard=2 replicate=4 expert=2", 6, {"replicate": 3, "shard": 2, "expert": 2, "expert_shard": 1}),
        ("shard=8 expert=2", 6, {"replicate": 1, "shard": 6, "expert": 2, "expert_shard": 3}),
        ("shard=8 expert=8", 7, {"replicate": 1, "shard": 7, "expert": 7, "expert_shard": 1}),
        ("shard=2 expert=2", 1, {"replicate": 1, "shard": 1, "expert": 1, "expert_shard": 1}),
    ],
)
def test_the_nearest_degrees(tmp_path: Path, degrees: str, ranks: int, wanted: dict[str, int]) -> None:
    """They compile for so many ranks."""
    given = [f"parallel.{one}" for one in degrees.split()]
    succeed("compile", "tiny", "-o", tmp_path / "bundle", *sets(*MODEL, *given))
    found = nearest_degrees(tmp_path / "bundle", ranks)
    assert found == wanted
    again = [f"parallel.{name}={degree}" for name, degree in found.items()]
    succeed("compile", "tiny", "-o", tmp_path / "smaller", *sets(*MODEL, *again), "--ranks", str(ranks))


@dataclass
class Fewer:
    """A transport of which a rank is lost whenever it is asked to."""

    world: int
    rank: int = 0
    can_shrink: bool = True

    def shrink(self) -> Fewer:
        return Fewer(self.world - 1)

    def abort(self, code: int) -> None:
        raise AssertionError("nobody is late")

    def exchange(self, data: bytes) -> list[bytes]:
        return [data] * self.world


def carry_out(failures: list[Exception], replan: object = None) -> tuple[int, list[tuple[str, bool, int]]]:
    """The attempts of a run that fails so often: (bundle, resumed, ranks) of each."""
    tried: list[tuple[str, bool, int]] = []

    def attempt(bundle: Path, resume: bool, transport: Transport) -> int:
        tried.append((bundle.name, resume, transport.world))
        if failures:
            raise failures.pop(0)
        return 0

    plan = replan or (lambda bundle, ranks: bundle.with_name(f"{bundle.name}-{ranks}"))
    return outlive(attempt, Path("b"), Fewer(4), plan, 60.0), tried  # type: ignore[arg-type]


def test_every_lost_rank_is_outlived() -> None:
    """Each plan is made from the first one, and every attempt but the first is resumed."""
    code, tried = carry_out([TransportError("lost"), TransportError("lost")])
    assert (code, tried) == (0, [("b", False, 4), ("b-3", True, 3), ("b-2", True, 2)])


def test_other_failures_end_the_run() -> None:
    with pytest.raises(NumericalError):
        carry_out([NumericalError("no number")])


def test_a_plan_that_cannot_be_made_ends_the_run() -> None:
    def replan(bundle: Path, ranks: int) -> Path:
        raise UserError("the batch is too small")

    with pytest.raises(UserError, match="no plan for 3 ranks: the batch is too small"):
        carry_out([TransportError("lost")], replan)
