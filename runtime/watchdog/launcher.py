"""Whether the process that started this rank is still there.

Open MPI's ranks live on when mpirun is killed, and so would mpirun when the `moec run -n` that started it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from .processes import born

VARIABLE = "MOEC_LAUNCHER"
"""`PID:TICKS` of the `moec run -n` that started mpirun on this machine."""


class Launcher:
    """Remembers the parent of this process, and who started that, at the time when it is made."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._parent = os.getppid()
        pid, _, ticks = environment.get(VARIABLE, "").partition(":")
        self._starter = (int(pid), int(ticks)) if pid.isdecimal() and ticks.isdecimal() else None
        if self._starter and born(self._starter[0]) != self._starter[1]:
            self._starter = None  # of another machine, or left in an environment

    def is_gone(self) -> bool:
        """Whether either has ended."""
        if os.getppid() != self._parent:
            return True
        return self._starter is not None and born(self._starter[0]) != self._starter[1]

    def __str__(self) -> str:
        return "the process that started this rank"


def signature(pid: int) -> str:
    """What `VARIABLE` holds for a process."""
    return f"{pid}:{born(pid)}"
