"""Following a run on a terminal until it ends, or one picture of it where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TextIO

from moec.runtime.errors import EnvironmentMismatch
from moec.runtime.record.names import METRICS

from .look import Look, look_at
from .picture import History, picture
from .plot import ASCII_BLOCKS, BLOCKS
from .tail import Tail

INTERVAL_S = 0.5
_COLUMNS, _LINES = 80, 60
"""Of a picture that goes into a pipe or a file."""


def follow(
    out: Path,
    *,
    once: bool = False,
    stream: TextIO | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Show the run in `out` until it has ended, and return its exit code; an interrupt only ends the showing.

    Raises:
        UserError: there is no run.
        IntegrityError: what is there is no record of a run.
        EnvironmentMismatch: rich, which draws, is not installed.
    """
    stream = stream or sys.stdout
    watched = _Watched(out, blocks_of(stream))
    if once or not stream.isatty():
        look = watched.look()
        print(*watched.picture(look, _COLUMNS, _LINES), sep="\n", file=stream)
        return look.exit_code
    return _follow(watched, stream, sleep)


def blocks_of(stream: TextIO) -> str:
    """The characters to draw with: what the stream's encoding has."""
    try:
        BLOCKS.encode(stream.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII_BLOCKS
    return BLOCKS


class _Watched:
    def __init__(self, out: Path, blocks: str) -> None:
        self._out, self._blocks = out, blocks
        self._tail, self._history = Tail(out / METRICS), History()

    def look(self) -> Look:
        """What is new."""
        look_at(self._out, recent=())  # a folder without a run is refused before its metrics are read
        look = self._read()
        return look if look.status.state == "running" else self._read()  # its last steps, too

    def _read(self) -> Look:
        self._history.add(*self._tail.read())
        return look_at(self._out, recent=tuple(self._history.recent))

    def picture(self, look: Look, width: int, height: int) -> list[str]:
        """In that size."""
        return picture(look, self._history, width, height, self._blocks)


def _follow(watched: _Watched, stream: TextIO, sleep: Callable[[float], None]) -> int:
    try:
        live = import_module("moec.runtime.record.live")
    except ImportError as error:
        raise EnvironmentMismatch("moec watch draws with rich: pip install rich, or --once") from error
    look = watched.look()
    with live.LiveLines(stream) as screen:
        try:
            while True:
                screen.show(watched.picture(look, *screen.size()))
                if look.status.state != "running":
                    return look.exit_code
                sleep(INTERVAL_S)
                look = watched.look()
        except KeyboardInterrupt:
            return look.exit_code
