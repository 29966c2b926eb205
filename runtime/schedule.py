"""Learning rate schedules: a factor of the base rate as a pure function of the step.

Both are those of transformers (`get_cosine_schedule_with_warmup`, `get_constant_schedule_with_warmup`), the
cosine with a floor. Steps count from 0 and the factor is the one of the update made in that step; with a
warmup, the first update therefore has rate 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


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


def schedule_from_data(data: Mapping[str, object]) -> Schedule:
    """The schedule that a bundle holds.

    It reads `{"kind": "cosine", "warmup": 2000, "floor": 0.1}` or `{"kind": "constant", "warmup": 2000}`.

    Raises:
        ValueError: another kind, a missing or unknown key, or a value out of its range.
    """
    match data:
        case {"kind": "cosine", "warmup": int(warmup), "floor": int() | float() as floor} if len(data) == 3:
            schedule: Schedule = Cosine(warmup, float(floor))
        case {"kind": "constant", "warmup": int(warmup)} if len(data) == 2:
            schedule = Constant(warmup)
        case _:
            raise ValueError(f"not a learning rate schedule: {dict(data)!r}")
    if warmup < 0 or not 0.0 <= getattr(schedule, "floor", 0.0) <= 1.0:
        raise ValueError(f"a schedule needs warmup >= 0 and floor in 0..1, found {schedule}")
    return schedule


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
