"""Training in bf16: what a rank holds in which format, and three steps at any layout, moments in bf16 too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import compile_spec
from moec.dsl.spec import DType, PrecisionSpec
from moec.runtime.abi.bundle import with_digest
from moec.runtime.abi.codec import FormatError, dump, to_data
from moec.runtime.job import open_job
from moec.runtime.state import make_state
from moec.runtime.training import StepResult, Trainer
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.transport.single import SingleTransport
from small_models import weights_of
from small_training import FixedBatches, fill, spec_of

LAYOUTS: dict[str, dict[str, int]] = {
    "1": {},
    "2": {"shard": 2, "expert": 2},
    "4": {"shard": 2, "replicate": 2, "expert": 2, "expert_shard": 2},
}
STEPS = 3
ROUNDING = 2.0**-8
"""Relative, of one number in bfloat16."""


def bundle_of(path: Path, optimizer: DType, layout: str = "1") -> Path:
    spec = replace(spec_of("shared", **LAYOUTS[layout]), precision=PrecisionSpec("bf16", optimizer=optimizer))
    save(compile_spec(spec), path)
    return path


def trainer_of(path: Path, transport: Transport) -> Trainer:
    job = open_job(path, transport)
    manifest = job.bundle.manifest
    state = make_state(manifest, transport.rank, transport.device)
    fill(state, weights_of(spec_of("shared"), torch.float32))
    batches = FixedBatches(spec_of("shared"), manifest.sequences, transport.world, transport.rank)
    return Trainer(job, state, batches, STEPS)  # type: ignore[arg-type]


def trained(path: Path, transport: Transport) -> tuple[list[StepResult], dict[tuple[str, str], Tensor]]:
    """Results of all steps, and this rank's pieces, by part and parameter, where it has all of one."""
    trainer = trainer_of(path, transport)
    results = [trainer.step(step) for step in range(STEPS)]
    state, held = trainer.state, {}
    for part, shards in state.parts.items():
        for name, shard in shards.items():
            for piece in state.pieces(name):
                if piece.count == torch.Size(piece.shape).numel():
                    held[part, piece.name] = shard[piece.offset : piece.offset + piece.count].float()
    return results, held


def ranks_of(
    folder: Path, optimizer: DType, layout: str
) -> list[tuple[list[StepResult], dict[tuple[str, str], Tensor]]]:
    """What every rank of a layout comes to."""
    path, degrees = bundle_of(folder / layout, optimizer, layout), LAYOUTS[layout]
    world = degrees.get("shard", 1) * degrees.get("replicate", 1)
    return run_ranks(world, lambda transport: trained(path, transport))


def test_a_rank_holds_moments_in_their_format_and_all_else_in_float32(tmp_path: Path) -> None:
    for optimizer, expected in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        state = trainer_of(bundle_of(tmp_path / optimizer, optimizer), SingleTransport()).state  # type: ignore[arg-type]
        for part, shards in state.parts.items():
            wanted = expected if part.startswith("exp_avg") else torch.float32
            assert state.dtypes[part] == wanted
            assert {shard.dtype for shard in shards.values()} == {wanted}
        held = state.bytes_by_part()
        assert held["exp_avg"] == held["exp_avg_sq"] == held["gradient"] * expected.itemsize // 4


@pytest.mark.parametrize("optimizer", ["fp32", "bf16"])
def test_three_steps_are_the_same_at_every_layout_but_for_rounding(optimizer: DType, tmp_path: Path) -> None:
    """Losses and norms, and the parameters that a rank has all of.

    An update moves an element by at most lr = 0.01 or so, whatever its gradient's size, so one whose gradient
    is a rounding error may move either way in each step: parameters differ by at most that.
    """
    ((results, whole),) = ranks_of(tmp_path, optimizer, "1")
    seen = set()
    for layout in ("2", "4"):
        for found, held in ranks_of(tmp_path, optimizer, layout):
            for here, there in zip(found, results, strict=True):
                assert here.losses["loss"] == pytest.approx(there.losses["loss"], rel=2 * ROUNDING)
                assert here.grad_norm == pytest.approx(there.grad_norm, rel=8 * ROUNDING)
            for (part, name), values in held.items():
                if part == "parameter":
                    assert (values - whole[part, name]).abs().max() <= 2 * STEPS * 0.01, name
                    seen.add(name)
    assert {"layers.0.experts.norm", "layers.1.experts.shared.down"} <= seen


def test_two_runs_are_equal_bit_for_bit(tmp_path: Path) -> None:
    """Rounding of moments needs no state: what is random in it is a function of numbers and of the step."""
    path = bundle_of(tmp_path / "bundle", "bf16")
    one, other = (trained(path, SingleTransport()) for _ in range(2))
    assert [r.losses for r in one[0]] == [r.losses for r in other[0]]
    assert all(torch.equal(values, other[1][key]) for key, values in one[1].items())
    moments = [values for (part, _), values in one[1].items() if part == "exp_avg_sq"]
    assert any(values.abs().max() > 0 for values in moments)


def test_a_manifest_with_formats_that_cannot_be_is_refused(tmp_path: Path) -> None:
    bundle = open_job(bundle_of(tmp_path / "bundle", "bf16"), SingleTransport()).bundle
    (first, *others) = bundle.manifest.buffers["embed"]
    for change in (
        {"moments": "float64"},
        {"dtype": "float64"},
        {"buffers": bundle.manifest.buffers | {"embed": (replace(first, dtype="float64"), *others)}},
    ):
        manifest = with_digest(to_data(replace(bundle.manifest, **change)))  # type: ignore[arg-type]
        (tmp_path / "bundle/manifest.json").write_bytes(dump(manifest))
        with pytest.raises(FormatError, match="parameters are float"):
            open_job(tmp_path / "bundle", SingleTransport())
