"""Stopping, skipping and going back, on results that are made up; what is passed over is not used again."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import pytest

from moec.runtime.abi.manifest import OnNonfinite, OnSpike
from moec.runtime.errors import IntegrityError, NumericalError
from moec.runtime.loop import Wish
from moec.runtime.numerics import LEAST, Numerics
from moec.runtime.training import StepResult

NAN = math.nan


@dataclass
class FakeTrainer:
    """What `Numerics` asks of a trainer."""

    loss_limit: float = math.inf
    passed_over: int = 0

    def batch_of(self, step: int) -> int:
        return step + self.passed_over

    def pass_over(self, batches: int) -> None:
        self.passed_over += batches


@dataclass
class FakeTraining:
    nonfinite: OnNonfinite = field(default_factory=lambda: OnNonfinite("stop", 0))
    spike: OnSpike = field(default_factory=lambda: OnSpike("none", 3.0, 0))


class Run:
    """A run of which the losses are given. Checkpoints are there of every third step."""

    def __init__(self, training: FakeTraining, checkpoint: int | None = 3) -> None:
        self.trainer, self.checkpoint = FakeTrainer(), checkpoint
        self.said: list[str] = []
        self.rewound: list[int] = []
        trainer: Any = self.trainer
        settings: Any = training
        self.numerics = Numerics(
            trainer, settings, rewind=self._rewind, rewound=self.rewound.append,
            trace=lambda: "\n  not finite: x", say=self.said.append,
        )  # fmt: skip

    def _rewind(self) -> int:
        if self.checkpoint is None:
            raise IntegrityError("there is none")
        self.trainer.passed_over = 0  # as the checkpoint has it
        return self.checkpoint

    def step(self, step: int, loss: float, norm: float = 1.0) -> Wish | None:
        self.numerics.before_step(step)
        sound = math.isfinite(loss) and math.isfinite(norm) and loss <= self.trainer.loss_limit
        result = StepResult(step, {"loss": loss}, norm, 0.1, 8, 0.1, {}, updated=sound)
        return self.numerics.after_step(result)


@pytest.mark.parametrize(
    ("loss", "norm", "name"), [(NAN, 1.0, "loss is nan"), (1.0, math.inf, "grad_norm is inf")]
)
def test_stop(loss: float, norm: float, name: str) -> None:
    run = Run(FakeTraining())
    assert run.step(0, 1.0) is None
    with pytest.raises(NumericalError, match=f"{name} in step 1\n  not finite: x"):
        run.step(1, loss, norm)


def test_skips_are_counted() -> None:
    run = Run(FakeTraining(OnNonfinite("skip", 2)))
    assert [run.step(step, NAN) for step in range(2)] == [None, None]
    assert ["(1 of at most 2)" in run.said[0], "(2 of at most 2)" in run.said[1]] == [True, True]
    assert run.step(2, 1.0) is None
    with pytest.raises(NumericalError, match=r"skip\(most: 2\) allows no more"):
        run.step(3, NAN)


def test_going_back_passes_over_the_batches_since_the_checkpoint() -> None:
    """From step 3 with batch 6, where step 5 was bad with batch 5; then from step 3 with batch 8."""
    run = Run(FakeTraining(OnNonfinite("rewind", 2)))
    assert run.step(5, NAN) == Wish("rewind", "loss is nan in step 5", 3)
    assert (run.trainer.batch_of(3), run.rewound) == (6, [3])
    assert run.step(4, NAN) == Wish("rewind", "loss is nan in step 4", 3)  # batch 7
    assert run.trainer.batch_of(3) == 8
    with pytest.raises(NumericalError, match="allows no more"):
        run.step(3, NAN)


def test_there_may_be_no_going_back() -> None:
    with pytest.raises(NumericalError, match="and there is no going back: there is none"):
        Run(FakeTraining(OnNonfinite("rewind", 2)), checkpoint=None).step(1, NAN)


def test_a_spike_that_is_warned_of_updates() -> None:
    run = Run(FakeTraining(spike=OnSpike("warn", 3.0, 0)))
    for step in range(LEAST):
        assert run.step(step, 1.0 if step else 50.0) is None  # too early for a spike
    assert run.step(LEAST, 3.5) is None
    assert run.trainer.loss_limit == math.inf
    assert run.said == [f"loss is 3.5 in step {LEAST}, 3.5 times the median of the last losses"]


@pytest.mark.parametrize("kind", ["skip", "rewind"])
def test_a_spike_that_is_more_than_warned_of_does_not_update(kind: Any) -> None:
    run = Run(FakeTraining(spike=OnSpike(kind, 3.0, 1)))
    for step in range(LEAST):
        run.step(step, 2.0)
    assert run.step(LEAST, 6.0) is None  # at the limit
    assert run.trainer.loss_limit == 6.0
    wish = run.step(LEAST + 1, 6.5)
    assert (wish is None) == (kind == "skip")
    with pytest.raises(NumericalError, match=rf"train\.spike = {kind}\(most: 1\) allows no more"):
        run.step(LEAST + 2, 6.5)
