"""Which ranks are slow: two scores of every rank, from the time that it does not wait for others.

All ranks take the same time for a step, since all wait for the slowest. What tells them apart is the time
that is left of it without the waits of collectives. By the fastest rank of the same window, a score says who
is slow; by the rank's own best window, who has become slow. Both scores are in (0, 1], and 1 is as fast.

Where an accelerator computes while the host goes on, the host's time is mostly that of waiting for the
device, and the scores say less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

WINDOW_STEPS, WINDOW_S = 50, 10.0
"""A window is this many steps, or as many as fit into so many seconds, but at least three."""

SLOW = 0.7
"""A score below it is that of a straggler."""

MATTERS = 0.2
"""And the time that the others wait for it is at least this part of a step."""


@dataclass(frozen=True)
class Score:
    """`busy_s` is the mean over a window of a rank's time in a step, waits left out."""

    rank: int
    busy_s: float
    relative: float
    own: float


class Stragglers:
    """Scores of all ranks, window by window; `slow` are those of the last window that are stragglers."""

    def __init__(self, world: int) -> None:
        self.scores: tuple[Score, ...] = ()
        self.slow: tuple[Score, ...] = ()
        self.step_s = 0.0
        self._best = [float("inf")] * world
        self._warm = False
        self._steps, self._total_s, self._busy_s = 0, 0.0, [0.0] * world

    def add(self, busy_s: Sequence[float], steps: int, step_s: float) -> bool:
        """`steps` more, of which each took `step_s`; whether a window is full, and there are new scores.

        What comes first is left out: it holds what is done once.
        """
        if not self._warm:
            self._warm = True
            return False
        self._steps += steps
        self._total_s += steps * step_s
        self._busy_s = [total + steps * one for total, one in zip(self._busy_s, busy_s, strict=True)]
        if self._steps < WINDOW_STEPS and (self._total_s < WINDOW_S or self._steps < 3):
            return False
        self._score()
        self._reset()
        return True

    def _reset(self) -> None:
        self._steps, self._total_s, self._busy_s = 0, 0.0, [0.0] * len(self._best)

    def _score(self) -> None:
        busy_s = [max(total / self._steps, 1e-9) for total in self._busy_s]
        self._best = [min(best, now) for best, now in zip(self._best, busy_s, strict=True)]
        fastest, self.step_s = min(busy_s), self._total_s / self._steps
        self.scores = tuple(
            Score(rank, now, fastest / now, best / now)
            for rank, (now, best) in enumerate(zip(busy_s, self._best, strict=True))
        )
        self.slow = tuple(
            s for s in self.scores if s.relative < SLOW and s.busy_s - fastest > MATTERS * self.step_s
        )


def warning(score: Score, step: int, step_s: float) -> str:
    """What people are told of a straggler."""
    return (
        f"rank {score.rank} is slow: {score.busy_s:.3f} s of a step of {step_s:.3f} s up to step {step}, "
        f"where the fastest rank takes {score.busy_s * score.relative:.3f} s (score {score.relative:.2f}; "
        f"by its own best {score.own:.2f})"
    )
