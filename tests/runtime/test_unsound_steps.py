"""A step whose numbers are not sound changes nothing, on any rank, and what was not sound is named."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moec.runtime.nonfinite import trace
from moec.runtime.state import TrainState
from moec.runtime.training import Trainer
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.transport.single import SingleTransport
from small_training import bundle_of, trainer

CHANGED = ("parameter", "exp_avg", "exp_avg_sq")
BAD_STEP, EXPERTS = 1, "layers.0/expert_matrices"


def kept(state: TrainState) -> dict[str, Tensor]:
    return {f"{part} {name}": x.clone() for part in CHANGED for name, x in state.parts[part].items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(x, other[name]) for name, x in one.items())


def spoil(one: Trainer, value: float) -> None:
    """From the bad step on, the first number of the gradient of this rank's experts is `value`."""
    target = one.state.gradients[EXPERTS]

    def around(square: Callable[..., Any]) -> Callable[..., Any]:
        def spoilt(gradient: Tensor) -> Any:
            if gradient.data_ptr() == target.data_ptr():
                gradient[0] = value
            return square(gradient)

        return spoilt

    one.job.executor.interpose("moec.sum_of_squares", around)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_number_on_one_rank_holds_back_all(value: float, tmp_path: Path) -> None:
    """Correction biases, which every rank changes by itself, too; and all say the same of it."""
    path = bundle_of(tmp_path / "bundle", "correction", shard=2, expert=2)

    def rank(transport: Transport) -> tuple[bool, bool, bool, str]:
        one = trainer(path, transport, "correction")
        start = kept(one.state)
        one.step(0)
        before = kept(one.state)
        if transport.rank == 1:
            spoil(one, value)
        result = one.step(BAD_STEP)
        assert not math.isfinite(result.grad_norm)
        assert math.isfinite(result.losses["loss"])
        found = trace(one.state, one.job.bundle, transport)
        return result.updated, same(kept(one.state), before), same(start, before), found

    found = run_ranks(2, rank)
    assert [ranks[:3] for ranks in found] == [(False, True, False)] * 2
    expert = "layers.0.experts.expert.2.gate (small.moe:11) on rank 1"
    assert {ranks[3] for ranks in found} == {f"\n  not finite: gradients of {expert}"}


def test_a_loss_above_the_limit_does_not_update(tmp_path: Path) -> None:
    """At the limit it does."""
    one = trainer(bundle_of(tmp_path / "bundle"), SingleTransport())
    first = one.step(0)
    before = kept(one.state)
    loss = one.step(1).losses["loss"]
    for name, x in before.items():
        part, state = name.split(" ")
        one.state.parts[part][state].copy_(x)
    one.loss_limit = math.nextafter(loss, 0.0)
    assert not one.step(1).updated
    assert same(kept(one.state), before)
    one.loss_limit = loss
    assert one.step(1).updated
    assert not same(kept(one.state), before)
    assert (first.updated, one.skipped) == (True, 1)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_parameter_that_is_not_finite_is_named_before_gradients(value: float, tmp_path: Path) -> None:
    one = trainer(bundle_of(tmp_path / "bundle"), SingleTransport())
    one.step(0)
    one.state.parameters["head/matrices"][5] = value
    result = one.step(1)
    assert (result.updated, math.isfinite(result.losses["loss"])) == (False, False)
    assert trace(one.state, one.job.bundle, one.job.transport).startswith(
        "\n  not finite: parameters logits (small.moe:"
    )


def test_nothing_is_said_of_a_state_that_is_sound(tmp_path: Path) -> None:
    one = trainer(bundle_of(tmp_path / "bundle"), SingleTransport())
    one.step(0)
    assert trace(one.state, one.job.bundle, one.job.transport) == ""


def test_batches_that_are_passed_over_are_not_used(tmp_path: Path) -> None:
    """The step after two others takes batch 4 where two were passed over, and sees the positions of that."""
    path = bundle_of(tmp_path / "bundle")
    one, other = (trainer(path, SingleTransport()) for _ in range(2))
    for both in (one, other):
        both.step(0)
        both.step(1)
    one.pass_over(2)
    loader: Any = other.loader
    batch = loader.batch
    loader.batch = lambda step: batch(step + 2)
    assert one.batch_of(2) == 4
    assert one.step(2).losses == other.step(2).losses
    assert same(kept(one.state), kept(other.state))
    assert one.rewinds == 1
