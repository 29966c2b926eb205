"""The loop of a run: step after step, and what goes along with them.

A companion is told of every step: one saves checkpoints, one looks at losses, one listens to signals, one
validates. All ranks have the same companions in the same order, so that companions may use collectives. What
a companion wants of the loop, it returns as a `Wish`, the same on all ranks; the first wish is granted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from .training import StepResult, Trainer


@dataclass(frozen=True)
class Wish:
    """`stop`: no further step; `rewind`: the state is that before step `step` again, go on from there."""

    kind: Literal["stop", "rewind"]
    reason: str
    step: int = 0


class Companion:
    """What goes along with a run; each method does nothing unless it is overridden."""

    def before_step(self, step: int) -> None:
        """Step `step`, counted from 0, comes next. Called on all ranks."""

    def after_step(self, result: StepResult) -> Wish | None:
        """A step is done, and in the record. Called on all ranks; what is returned is equal on all."""

    def finish(self, wish: Wish | None) -> None:
        """There is no further step, by the wish of a companion or because all are done. On all ranks."""

    def close(self) -> None:
        """Let go of threads and files, also after a failure: nothing here may wait for another rank."""


def train(
    trainer: Trainer,
    steps: range,
    companions: Sequence[Companion],
    record: Callable[[StepResult], None],
) -> Wish | None:
    """Do the steps of `steps`; the wish that ended them early, None if none did.

    `record` is told of every step before the companions are, so that the record shows what went wrong.
    """
    step, wish = steps.start, None
    while step < steps.stop:
        for companion in companions:
            companion.before_step(step)
        result = trainer.step(step)
        record(result)
        wish = _first_wish(companions, result)
        if wish is not None and wish.kind == "stop":
            break
        step = wish.step if wish is not None else step + 1
        wish = None
    for companion in companions:
        companion.finish(wish)
    return wish


def _first_wish(companions: Sequence[Companion], result: StepResult) -> Wish | None:
    """All companions are told, whatever the first of them wishes."""
    wishes = [companion.after_step(result) for companion in companions]
    return next((wish for wish in wishes if wish is not None), None)
