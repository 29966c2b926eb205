"""One run at a time in a folder: rank 0 holds `OUT/lock` for as long as its run lasts.

The lock is the system's, on any machine if the file system has locks: however the process ends, it is free
then. The file of a run that was killed stays, and means nothing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from moec.runtime.errors import UserError

LOCK = "lock"

PATIENCE_S = 10.0
"""How long the ranks of a run whose launcher was killed may take to end."""

_HELD = (errno.EAGAIN, errno.EACCES)


class OccupiedError(UserError):
    """Another run is at work in the folder; its record is not ours to write."""


class Claim:
    """A context in which a folder belongs to this run, from `take` on, if its file system has locks."""

    def __init__(self, out: Path) -> None:
        self._out, self._path = out, out / LOCK
        self._descriptor: int | None = None

    def take(self, patience_s: float | None = None) -> None:
        """Take the folder, if it is there and is not taken yet.

        Raises:
            OccupiedError: another run holds it, and still does after `patience_s`, by default `PATIENCE_S`.
        """
        deadline_s = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
        while self._descriptor is None and self._out.is_dir():
            try:
                self._descriptor = _lock(self._path)
            except OSError as error:
                if error.errno not in _HELD:
                    return  # no locks, or no leave to write, which is told where the record is written
                if time.monotonic() > deadline_s:
                    raise OccupiedError(
                        f"another run is at work in {self._out}: wait for its end, stop it, "
                        "or give another --out"
                    ) from error
                time.sleep(0.1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = None


def check_free(out: Path, patience_s: float | None = None) -> None:
    """Raises OccupiedError if a run is at work in `out`."""
    with Claim(out) as claim:
        claim.take(patience_s)


def _lock(path: Path) -> int | None:
    """The locked file's descriptor; None if it was removed meanwhile. Raises OSError, also if it is held."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.exists(path) and os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None
