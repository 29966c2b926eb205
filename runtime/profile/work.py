"""What a rank did in a step, and when, by the clock of its meter."""

from __future__ import annotations

from dataclasses import dataclass, field

from .meter import Moved


@dataclass(frozen=True)
class Work:
    """A step began at `start_s` by the meter's clock, took `step_s`, `data_s` of it for its batch."""

    start_s: float = 0.0
    step_s: float = 0.0
    data_s: float = 0.0
    moved: Moved = field(default_factory=Moved)

    def times_s(self) -> dict[str, float]:
        """`data`, `compute` and `collectives` add up to the step; `waiting` is a part of the last."""
        collectives_s = self.moved.start_s + self.moved.wait_s
        return {
            "data": self.data_s,
            "compute": self.step_s - self.data_s - collectives_s,
            "collectives": collectives_s,
            "waiting": self.moved.wait_s,
        }
