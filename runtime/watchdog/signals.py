"""Signals that ask a rank to stop, heard also while its main thread is blocked in a collective.

Python runs handlers on the main thread, between two of its bytecodes. What is written to the wake-up pipe is
written by the handler in C, at once, and a watching thread reads it.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from types import FrameType
from typing import Any

STOPPING = (signal.SIGUSR1, signal.SIGTERM)
"""Save and stop. A second one: leave at once."""

_HEARD = (*STOPPING, signal.SIGCONT)


class Signals:
    """Takes over `STOPPING` from the main thread until `close`. `received` are the signals so far.

    SIGCONT is heard, too: it does nothing, and launchers send it before others.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before: dict[int, Any] = {number: signal.signal(number, _heard) for number in _HEARD}

    @property
    def stops(self) -> list[int]:
        """Those that asked to stop."""
        return [number for number in self.received if number in STOPPING]

    def wait(self, seconds: float) -> list[int]:
        """New signals, after at most so many seconds; on the watching thread."""
        select.select([self._read], [], [], seconds)
        heard: list[int] = []
        with contextlib.suppress(BlockingIOError):
            heard = [number for number in os.read(self._read, 64) if number in _HEARD]
        self.received += heard
        return heard

    def close(self) -> None:
        """Give the signals back; on the main thread, when nothing waits any more."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)


def _heard(number: int, frame: FrameType | None) -> None:
    """Nothing is done here: the number is in the pipe."""
