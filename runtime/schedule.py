"""Learning rate schedules: a factor of the base rate as a pure function of the step.

Both are those of transformers (`get_cosine_schedule_with_warmup`, `get_constant_schedule_with_warmup`), the
cosine with a floor. Steps count from 0 and the factor is the one of the update made in that step; with a
warmup, the first update therefore has rate 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .errors import UserError


@dataclass(frozen=True)
class Cosine:
    """Linear from 0 to 1 over `warmup` steps, then half a cosine down to `floor` at the last step's end."""

    warmup: int = 0
    floor: float = 0.0


@dataclass(frozen=True)
class Constant:
    """Linear from 0 to 1 over `warmup` steps, then 1."""

    warmup: int = 0


Schedule = Cosine | Constant


def steps_to_do(wanted: int | None, total: int) -> int:
    """How many of the `total` steps of a run to do; a step beyond its end has no learning rate.

    Raises:
        UserError: more than there are.
    """
    if wanted is not None and wanted > total:
        raise UserError(
            f"--steps {wanted}: the run has {total} steps; compile it with more, --set train.steps={wanted}"
        )
    return wanted or total


def learning_rate(step: int, steps: int, lr: float, schedule: Schedule) -> float:
    """The rate of the update made in `step`, of a run of `steps` steps whose base rate is `lr`."""
    return lr * factor(step, steps, schedule)


def factor(step: int, steps: int, schedule: Schedule) -> float:
    """The share of the base rate in `step`; past the last step it stays at its last value."""
    if step < schedule.warmup:
        return step / schedule.warmup
    if isinstance(schedule, Constant):
        return 1.0
    progress = min(1.0, (step - schedule.warmup) / max(1, steps - schedule.warmup))
    return schedule.floor + (1.0 - schedule.floor) * 0.5 * (1.0 + math.cos(math.pi * progress))
