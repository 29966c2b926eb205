"""What the ranks of a run tell each other between steps, rarely: who was asked to stop, and who is slow.

Ranks meet about twice a second, or at every step where a step takes longer; all know from the last meeting
when the next one is. So a signal that reaches the ranks in different steps stops all of them after the same
one, and a fast step pays for no message.
"""

from __future__ import annotations

import signal
import struct
import time
from collections.abc import Callable

from moec.runtime.executor import Position
from moec.runtime.loop import Companion, Wish
from moec.runtime.training import StepResult
from moec.runtime.transport.api import Transport

from .signals import Signals
from .stragglers import Stragglers

MEETING_S = 0.5
MOST_STEPS = 50
_MESSAGE = struct.Struct("<Bdd")  # signal, seconds a step, of these seconds without waits


class Council(Companion):
    """The first companion of a run, so that it sees what the others cost.

    `position` tells how long a rank waited in collectives; `told` is given what is found of slow ranks.
    """

    def __init__(
        self,
        transport: Transport,
        signals: Signals | None,
        position: Position,
        told: Callable[[Stragglers, int], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._transport, self._signals, self._position, self._told = transport, signals, position, told
        self._clock = clock
        self._stragglers = Stragglers(transport.world)
        self._steps, self._every = 0, 1
        self._met_s = self._began_s = clock()
        self._busy_s = self._waited_s = 0.0

    def before_step(self, step: int) -> None:
        """See `Companion`."""
        self._began_s, self._waited_s = self._clock(), self._position.waited_s

    def after_step(self, result: StepResult) -> Wish | None:
        """See `Companion`."""
        now_s = self._clock()
        self._busy_s += now_s - self._began_s - (self._position.waited_s - self._waited_s)
        self._steps += 1
        if self._steps < self._every:
            return None
        return self._meet(result.step, now_s)

    def _meet(self, step: int, now_s: float) -> Wish | None:
        asked = self._signals.stops[0] if self._signals and self._signals.stops else 0
        steps = self._steps
        mine = _MESSAGE.pack(asked, (now_s - self._met_s) / steps, self._busy_s / steps)
        heard = [_MESSAGE.unpack(message) for message in self._transport.exchange(mine)]
        slowest_s = max(step_s for _, step_s, _ in heard)
        self._every = max(1, min(MOST_STEPS, int(MEETING_S / max(slowest_s, 1e-9))))
        self._steps, self._busy_s, self._met_s = 0, 0.0, self._clock()
        if self._stragglers.add([busy_s for _, _, busy_s in heard], steps, slowest_s):
            self._told(self._stragglers, step)
        number = next((number for number, _, _ in heard if number), 0)
        return Wish("stop", f"asked to stop by {signal.Signals(number).name}") if number else None
