"""A failure on any rank ends the job, soon, with one message and one code, and the run keeps the verdict."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest
from safetensors.torch import load_file, save_file

from moec.runtime.mpirun import command
from mpi_job import MPIS, JobResult, Mpi, job
from mpi_job import run as run_session
from system.command_line import MODEL, ON_TWO, content, losses, metrics, sets, status, succeed

FAILING = Path(__file__).with_name("failing_job.py")
TIMEOUT_S = 60.0  # of jobs that would otherwise wait for a lost rank for ever

both = pytest.mark.parametrize("mpi", MPIS)


def fail(
    scenario: str, bundle: str | Path, data: str | Path, out: Path, *more: str | Path, mpi: Mpi = "openmpi"
) -> JobResult:
    """Run `scenario` on two ranks: nothing hangs, nothing outlives the job."""
    line = [FAILING, scenario, "run", bundle, "--data", data, "--out", out, *more]
    result = job(2, line, mpi=mpi, timeout_s=TIMEOUT_S)
    assert (result.timed_out, result.survivors) == (False, 0), result.output
    return result


def messages(result: JobResult) -> list[str]:
    """Our messages, each with its indented lines."""
    return re.findall(r"^ ?(moec: error.*(?:\n  .*)*)", result.output.replace("\r", ""), re.MULTILINE)


@pytest.mark.mpi
@pytest.mark.parametrize(("mpi", "transport"), [("openmpi", "mpi"), ("openmpi", "gloo"), ("mpich", "mpi")])
def test_a_failing_rank_ends_the_run_and_is_named(
    bundle_of_two: Path, text: Path, finished: Path, tmp_path: Path, mpi: Mpi, transport: str
) -> None:
    """The verdict tells how far the run had come; its metrics stay."""
    out = tmp_path / "run"
    result = fail("one fails", bundle_of_two, text, out, "--transport", transport, mpi=mpi)
    reason = "the disk is gone\n  during step\n  from tiny.moe:12"
    assert result.rc == 74, result.output
    assert messages(result) == [f"moec: error on rank 1: {reason}"]
    verdict = status(out)
    assert (verdict["state"], verdict["exit_code"], verdict["reason"]) == ("failed", 74, reason)
    assert (verdict["step"], verdict["steps"], verdict["world"]) == (3, 10, 2)
    assert verdict["loss"] == pytest.approx(losses(finished)[2], abs=1e-5)
    assert losses(out) == pytest.approx(losses(finished)[:3], abs=1e-5)
    assert not (out / "weights").exists()


@pytest.mark.mpi
@both
def test_an_operation_that_fails_is_named_with_its_line(
    bundle_of_two: Path, text: Path, tmp_path: Path, mpi: Mpi
) -> None:
    """The line of the model's text that says what an expert is."""
    out = tmp_path / "run"
    result = fail("an operation fails", bundle_of_two, text, out, mpi=mpi)
    assert result.rc == 70, result.output
    assert status(out)["exit_code"] == 70
    (message,) = messages(result)
    assert message.startswith("moec: error on rank 1: ")
    assert "no memory is left" in result.output
    assert re.search(r"during [\w./]+: %\w+ = moec\.expert_mm", result.output)
    assert "from tiny.moe:10" in result.output
    assert "from tiny.moe:10" in status(out)["reason"]


@pytest.mark.mpi
@both
def test_what_all_ranks_meet_is_said_once(bundle_of_two: Path, text: Path, tmp_path: Path, mpi: Mpi) -> None:
    out = tmp_path / "run"
    result = fail("all fail", bundle_of_two, text, out, mpi=mpi)
    assert result.rc == 74, result.output
    assert messages(result) == ["moec: error on all 2 ranks: the disk is gone"]
    assert (status(out)["state"], status(out)["exit_code"], status(out)["step"]) == ("failed", 74, 3)


@pytest.mark.mpi
@both
def test_a_loss_that_is_not_a_number_ends_the_run(
    bundle_of_two: Path, text: Path, finished: Path, tmp_path: Path, mpi: Mpi
) -> None:
    """Here from weights that are none, in the experts of one rank."""
    succeed("export", finished, "--to", tmp_path / "broken")
    weights = tmp_path / "broken" / "model.safetensors"
    tensors = load_file(weights)
    for expert in range(4, 8):
        tensors[f"model.layers.0.block_sparse_moe.experts.{expert}.w2.weight"][0, 0] = float("nan")
    save_file(tensors, weights)
    out = tmp_path / "run"
    result = fail("nothing", bundle_of_two, text, out, "--init", f"hf:{tmp_path / 'broken'}", mpi=mpi)
    assert result.rc == 87, result.output
    (message,) = messages(result)
    assert message.startswith("moec: error on all 2 ranks: loss is nan in step 0")
    assert (status(out)["state"], status(out)["exit_code"], status(out)["loss"]) == ("failed", 87, None)
    (line,) = metrics(out)
    assert (line["step"], line["loss"], line["non_finite"]["loss"]) == (0, None, "nan")


@pytest.mark.mpi
def test_ranks_that_read_other_data_weights_or_another_bundle_do_not_start(
    bundle: Path, bundle_of_two: Path, text: Path, finished: Path, tmp_path: Path
) -> None:
    """As where a file is not the same on every machine; an earlier run in the folder stays as it is."""
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.jsonl").write_text("earlier\n")
    for rank in "01":
        shutil.copy(text, tmp_path / f"text{rank}.txt")
    shutil.copytree(bundle_of_two, tmp_path / "bundle0")
    succeed("compile", "tiny", "-o", tmp_path / "bundle1", *sets(*MODEL, *ON_TWO, "train.optimizer.lr=1e-3"))
    (tmp_path / "text1.txt").write_text(text.read_text().replace("bottles", "battles"))
    shutil.copytree(finished, tmp_path / "init0")
    succeed("run", bundle, "--data", text, "--out", tmp_path / "init1", "--steps", "1")
    before = content(tmp_path)
    for what, path, data, *more in (
        ("data", bundle_of_two, tmp_path / "textRANK.txt"),
        ("bundle", tmp_path / "bundleRANK", text),
        ("init", bundle_of_two, text, "--init", tmp_path / "initRANK"),
    ):
        result = fail("nothing", path, data, out, *more)
        assert result.rc == 78, result.output
        (message,) = messages(result)
        assert f"on all 2 ranks: not all ranks have the same {what}: rank 0 has " in message
    assert content(tmp_path) == before


@pytest.mark.mpi
def test_a_refusal_replaces_the_verdict_of_an_earlier_run(
    bundle_of_two: Path, text: Path, finished: Path, tmp_path: Path
) -> None:
    """By one rank, which finds damage in its share of the weights; by all, which are too many."""
    shutil.copytree(finished, tmp_path / "damaged")
    second = tmp_path / "damaged" / "weights" / "layers.00000.safetensors"
    shutil.copytree(finished, tmp_path / "alone")
    shutil.copytree(finished, tmp_path / "many")
    damaged = bytearray(second.read_bytes())
    damaged[-1] ^= 1
    second.write_bytes(damaged)
    alone = fail("nothing", bundle_of_two, text, tmp_path / "alone", "--init", tmp_path / "damaged")
    many = job(3, ["-m", "moec", "run", bundle_of_two, "--data", text, "--out", tmp_path / "many"])
    assert messages(alone)[0].startswith("moec: error on rank 1: ")
    for result, out, code, reason in (
        (alone, "alone", 76, f"{second.name} is damaged"),
        (many, "many", 78, "the bundle is for 2 ranks"),
    ):
        assert result.rc == code, result.output
        verdict = status(tmp_path / out)
        assert (verdict["state"], verdict["exit_code"], verdict["step"]) == ("failed", code, 0)
        assert reason in verdict["reason"]
        (previous,) = (tmp_path / out).glob("previous-*")
        assert content(previous) == content(finished)


# --- from outside ---


def _disturb(
    out: Path, what: Callable[[subprocess.Popen[bytes]], None]
) -> Callable[[subprocess.Popen[bytes]], None]:
    """Once the run has done some steps."""

    def during(process: subprocess.Popen[bytes]) -> None:
        path = out / "metrics.jsonl"
        while process.poll() is None and not (path.exists() and path.read_text().count("\n") > 3):
            time.sleep(0.05)
        what(process)

    return during


def _kill_a_rank(process: subprocess.Popen[bytes]) -> None:
    below = psutil.Process(process.pid).children(recursive=True)
    ranks = [child for child in below if child.name().startswith("python")]
    assert len(ranks) == 2, below
    ranks[-1].kill()


@pytest.fixture(scope="module")
def long_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More steps than anybody waits for."""
    path = tmp_path_factory.mktemp("long") / "bundle"
    succeed("compile", "tiny", "-o", path, *sets(*MODEL, *ON_TWO, "train.steps=1_000_000"))
    return path


DISTURBANCES: dict[str, tuple[Callable[[subprocess.Popen[bytes]], None], set[int], int]] = {
    "a rank is killed": (_kill_a_rank, {137, 88}, 88),  # mpirun, or the rank that has noticed, is faster
    "interrupt": (lambda process: process.send_signal(signal.SIGINT), {130}, 130),
}


@pytest.mark.mpi
@pytest.mark.parametrize("case", DISTURBANCES)
def test_a_run_that_is_ended_from_outside_keeps_its_verdict(
    long_bundle: Path, text: Path, tmp_path: Path, case: str
) -> None:
    """By a rank that is left, or where none can tell it by who started the ranks; codes are as in a shell."""
    disturbance, codes, verdict = DISTURBANCES[case]
    out = tmp_path / "run"
    line = [
        sys.executable,
        "-m",
        "moec",
        "run",
        str(long_bundle),
        "-n",
        "2",
        "--data",
        str(text),
        "--out",
        str(out),
    ]
    _, environment = command(2, [])
    result = run_session(line, environment | {"OMP_NUM_THREADS": "1"}, TIMEOUT_S, _disturb(out, disturbance))
    assert result.rc in codes, result.output
    assert (result.timed_out, result.survivors) == (False, 0), result.output
    assert (status(out)["state"], status(out)["exit_code"]) == ("failed", verdict)
    assert "Traceback" not in result.output
