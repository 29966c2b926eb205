"""How far the clocks of ranks are apart, from messages: bounds that hold, and their middle.

All ranks exchange, over and over, and note when each began and when it was over. Nobody is through with an
exchange before everybody has begun it, so for clocks that differ by d (rank r's minus rank 0's):

    begin_r - end_0  <=  d  <=  end_r - begin_0

Every round narrows the interval; its middle is the estimate, half its width the most it can be wrong by.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from moec.runtime.transport.api import Transport

ROUNDS = 16


@dataclass(frozen=True)
class Clock:
    """This rank's clock minus rank 0's, to within `error_s`.

    `origin_s` is a time of rank 0's clock that all ranks count from.
    """

    offset_s: float
    error_s: float
    origin_s: float

    def common_us(self, time_s: float) -> float:
        """A time of this rank's clock in microseconds since the origin."""
        return (time_s - self.offset_s - self.origin_s) * 1e6


def align(transport: Transport, clock: Callable[[], float]) -> Clock:
    """Compare the clocks of all ranks; called by all together."""
    transport.exchange(b"")  # whoever is late is here now
    rounds = []
    for _ in range(ROUNDS):
        begin_s = clock()
        transport.exchange(b"")
        rounds.append((begin_s, clock()))
    theirs = [json.loads(answer) for answer in transport.exchange(json.dumps(rounds).encode())]
    low_s, high_s = bounds(theirs[0], rounds)
    return Clock((low_s + high_s) / 2, (high_s - low_s) / 2, theirs[0][0][0])


def bounds(first: Sequence[Sequence[float]], mine: Sequence[Sequence[float]]) -> tuple[float, float]:
    """Between which my clock minus the first one lies, from (begin, end) of the same exchanges by both."""
    low_s = max(begin_s - end_0_s for (begin_s, _), (_, end_0_s) in zip(mine, first, strict=True))
    high_s = min(end_s - begin_0_s for (_, end_s), (begin_0_s, _) in zip(mine, first, strict=True))
    return low_s, high_s
