"""Signs of life of what runs no instructions: reading data, writing files. One counter of the process."""

from __future__ import annotations

_beats = [0]


def beat() -> None:
    """Something has moved: a block is read, a file is written."""
    _beats[0] += 1


def beats() -> int:
    """How often there was a sign of life."""
    return _beats[0]
