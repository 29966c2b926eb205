"""The metrics of a run that may be going on: what is there, and then what is added.

A file may be of any size and from anyone, so only its end is read, with a limit.
"""

from __future__ import annotations

import os
from pathlib import Path

from moec.runtime.errors import InputOutputError, IntegrityError
from moec.runtime.record.metrics import MAX_LINE_BYTES, StepMetrics, metrics_of

LAST_BYTES = 64 << 20


class Tail:
    """Reads a metrics file from its last `last_bytes` on."""

    def __init__(self, path: Path, last_bytes: int = LAST_BYTES) -> None:
        self._path, self._last_bytes = path, last_bytes
        self._at: int | None = None  # the byte after the last line that was read
        self._rest = b""  # of a line that is not whole yet

    def read(self) -> tuple[list[StepMetrics], bool]:
        """The steps since the last call, and whether they take the place of all before.

        They do the first time, and where the file was cut: its run went on from an earlier step.

        Raises:
            IntegrityError: it holds something else than metrics.
            InputOutputError: it cannot be read.
        """
        try:
            if self._at is not None and self._at <= self._size():
                try:
                    return self._steps(self._added()), False
                except IntegrityError:  # it was cut, and grew again
                    pass
            return self._steps(self._from_the_end()), True
        except OSError as error:
            raise InputOutputError(f"cannot read {self._path}: {error.strerror}") from error

    def _size(self) -> int:
        return self._path.stat().st_size if self._path.is_file() else 0

    def _from_the_end(self) -> list[bytes]:
        size = self._size()
        self._at, self._rest = max(0, size - self._last_bytes), b""
        if not size:
            return []
        cut = self._at > 0
        lines = self._added()
        return lines[1:] if cut else lines

    def _added(self) -> list[bytes]:
        """Whole lines that were added."""
        assert self._at is not None
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._at)
            added = file.read(self._last_bytes)
        self._at += len(added)
        *lines, self._rest = (self._rest + added).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise IntegrityError(f"{self._path}: a line of {MAX_LINE_BYTES} bytes or more")
        return lines

    def _steps(self, lines: list[bytes]) -> list[StepMetrics]:
        return [metrics_of(line, os.fspath(self._path)) for line in lines]
