"""Training steps: those of a plain loop with torch's AdamW, at any number of ranks; and what stops a run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moec.compiler.reference import reference_step
from moec.runtime.abi.bundle import with_digest
from moec.runtime.abi.codec import dump
from moec.runtime.errors import EnvironmentMismatch
from moec.runtime.job import agree, open_job
from moec.runtime.schedule import Cosine, learning_rate
from moec.runtime.training import StepResult
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.transport.single import SingleTransport
from small_models import batch_of, relative, weights_of
from small_training import STEPS, bundle_of, spec_of, trainer

RATE = 0.01  # of the correction in `small_models`

Held = dict[str, list[tuple[int, Tensor]]]
"""A rank's pieces of every parameter: (first element, values)."""


def trained(
    path: Path, transport: Transport, variant: str = "z", steps: int = STEPS
) -> tuple[list[StepResult], Held]:
    """Results of all steps, and what this rank holds after them."""
    one = trainer(path, transport, variant, steps)
    results = [one.step(step) for step in range(steps)]
    held: Held = {}
    for name, shard in one.state.parameters.items():
        for piece in one.state.pieces(name):
            values = shard[piece.offset : piece.offset + piece.count]
            held.setdefault(piece.name, []).append((piece.start, values))
    return results, held


@dataclass(frozen=True)
class Plain:
    """What a plain loop finds: of every step, and in the end."""

    losses: list[dict[str, float]]
    norms: list[float]
    loads: dict[str, Tensor]
    parameters: dict[str, Tensor]


def plain_loop(variant: str, steps: int = STEPS) -> Plain:
    """The steps of a variant by the reference graphs on one device, and torch.optim."""
    spec, weights = spec_of(variant), weights_of(spec_of(variant))
    trained = [w.requires_grad_() for name, w in weights.items() if not name.endswith("correction")]
    matrices = [w for w in trained if w.dim() > 1]
    vectors = [w for w in trained if w.dim() == 1]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    losses, norms, loads = [], [], {}
    for step in range(steps):
        tokens, targets = batch_of(spec, step)
        first = step * len(tokens)
        found = reference_step(
            spec.model, weights, tokens, targets, spec.train.micro_batches, spec.train.seed, first
        )
        for name, gradient in found.gradients.items():
            weights[name].grad = gradient
        norms.append(torch.nn.utils.clip_grad_norm_(trained, 1.0).item())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps, 1e-2, Cosine(0, 0.0))
        optimizer.step()
        correct(weights, found.loads, variant)
        losses.append(found.losses)
        loads = found.loads
    return Plain(losses, norms, loads, {name: weight.detach() for name, weight in weights.items()})


def correct(weights: dict[str, Tensor], loads: dict[str, Tensor], variant: str) -> None:
    """Wang et al., 2024, algorithm 1, expert by expert."""
    for name, load in loads.items() if variant == "correction" else ():
        bias, counts = weights[name.removesuffix("load") + "correction"], load.tolist()
        for expert, count in enumerate(counts):
            excess = count - sum(counts) / len(counts)
            bias[expert] += 0.0 if excess == 0 else math.copysign(RATE, -excess)


LAYOUTS: dict[str, dict[str, int]] = {
    "1": {},
    "2": {"shard": 2, "expert": 2},
    "4": {"shard": 2, "replicate": 2, "expert": 2, "expert_shard": 2},
}


def run_layout(
    layout: str, folder: Path, variant: str, steps: int = STEPS
) -> list[tuple[list[StepResult], Held]]:
    """What every rank of a layout comes to."""
    degrees = LAYOUTS[layout]
    path = bundle_of(folder / f"bundle{layout}", variant, **degrees)
    world = degrees.get("shard", 1) * degrees.get("replicate", 1)
    return run_ranks(world, lambda transport: trained(path, transport, variant, steps))


@pytest.mark.parametrize(
    ("variant", "layout"),
    [*(("z", layout) for layout in LAYOUTS), *((v, "4") for v in ("ends", "correction", "jitter", "hash"))],
)
def test_three_steps_are_those_of_a_plain_loop(variant: str, layout: str, tmp_path: Path) -> None:
    """Losses, norms, loads and parameters, in float64; with decay, clipping, schedule and micro-batches.

    A tied table is one parameter, updated once; a correction has no part in norm and decay, and follows the
    load; the jitter of a step is that of its sequences.
    """
    ranks = run_layout(layout, tmp_path, variant)
    plain = plain_loop(variant)
    loads, parameters = plain.loads, plain.parameters
    for results, held in ranks:
        for result, expected, norm in zip(results, plain.losses, plain.norms, strict=True):
            entropies = {f"{name}.entropy": found for name, found in result.entropy.items()}
            assert {**result.losses, **entropies} == pytest.approx(expected, rel=1e-11)
            assert result.grad_norm == pytest.approx(norm, rel=1e-11)
            assert result.tokens == 36
        assert {f"{name}.load": load for name, load in results[-1].load.items()} == {
            name: load.tolist() for name, load in loads.items()
        }
        for name, pieces in held.items():
            whole = parameters[name].reshape(-1)
            for start, values in pieces:
                assert relative(values, whole[start : start + len(values)]) < 1e-9, name
    assert {name for _, held in ranks for name in held} == parameters.keys()


def test_corrections_are_equal_bit_for_bit_at_every_layout(tmp_path: Path) -> None:
    """After five steps, whole on every rank, and those of the plain loop."""
    expected = {n: b for n, b in plain_loop("correction", 5).parameters.items() if n.endswith("correction")}
    start = weights_of(spec_of("correction"))
    assert len(expected) == 2
    for layout in ("1", "4"):
        for _, held in run_layout(layout, tmp_path, "correction", 5):
            for name, bias in expected.items():
                ((first, values),) = held[name]
                assert first == 0
                assert torch.equal(values, bias)
                assert not torch.equal(values, start[name])


def test_what_is_not_trained_has_no_gradient_and_no_moments(tmp_path: Path) -> None:
    one = trainer(bundle_of(tmp_path / "bundle", "correction", shard=1), SingleTransport(), "correction")
    held = {part: set(shards) for part, shards in one.state.parts.items()}
    untrained = {"layers.0/untrained", "layers.1/untrained"}
    assert held["parameter"] - held["gradient"] == untrained
    assert held["gradient"] == held["exp_avg"] == held["exp_avg_sq"]


def test_a_correction_without_update_stays_as_it_is(tmp_path: Path) -> None:
    variant = "fixed correction"
    _, held = trained(bundle_of(tmp_path / "bundle", variant), SingleTransport(), variant)
    ((_, values),) = held["layers.0.experts.correction"]
    assert torch.equal(values, weights_of(spec_of(variant))["layers.0.experts.correction"])


def test_the_learning_rate_of_a_step_is_in_its_result(tmp_path: Path) -> None:
    results, _ = trained(bundle_of(tmp_path / "bundle"), SingleTransport())
    expected = [learning_rate(step, STEPS, 1e-2, Cosine(0, 0.0)) for step in range(STEPS)]
    assert [result.lr for result in results] == expected
    assert [result.step for result in results] == [0, 1, 2]


def test_ranks_with_different_bundles_do_not_start(tmp_path: Path) -> None:
    """All of them say so."""
    paths = [bundle_of(tmp_path / "one", shard=2), bundle_of(tmp_path / "other", shard=2, expert=2)]
    with pytest.raises(EnvironmentMismatch, match="not all ranks have the same bundle: rank 0 has "):
        run_ranks(2, lambda transport: open_job(paths[transport.rank], transport))


def test_ranks_agree_on_facts_or_name_the_first_that_differs() -> None:
    def facts(rank: int) -> dict[str, str]:
        return {"torch": "2", "data": str(min(rank, 1))}

    assert run_ranks(1, lambda transport: agree(facts(0), transport)) == [None]
    with pytest.raises(EnvironmentMismatch, match="the same data: rank 0 has 0, rank 1 has 1"):
        run_ranks(3, lambda transport: agree(facts(transport.rank), transport))


def test_a_bundle_of_another_torch_is_refused(tmp_path: Path) -> None:
    path = bundle_of(tmp_path / "bundle")
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["toolchain"]["torch"] = "1.0"
    (path / "manifest.json").write_bytes(dump(with_digest(manifest)))
    with pytest.raises(
        EnvironmentMismatch, match=r"compiled with torch 1\.0, this is torch .*: compile again"
    ):
        open_job(path, SingleTransport())
