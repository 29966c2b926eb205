"""Offsets in a text, and positions as editors count them: line and column from 0, in units of an encoding."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Encoding = Literal["utf-8", "utf-16", "utf-32"]
Position = tuple[int, int]

_UNITS: dict[Encoding, Callable[[str], int]] = {
    "utf-8": lambda char: 1 if char < "\x80" else 2 if char < "\u0800" else 3 if char < "\U00010000" else 4,
    "utf-16": lambda char: 1 if char < "\U00010000" else 2,
    "utf-32": lambda _: 1,
}


@dataclass(frozen=True)
class Places:
    """The lines of a text, by any of the line ends that editors know."""

    text: str
    encoding: Encoding = "utf-16"

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        return (0, *(found.end() for found in re.finditer(r"\r\n|\n|\r", self.text)))

    def position(self, offset: int) -> Position:
        """The position of a character, or of the end of the text."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self._starts, offset) - 1
        units = _UNITS[self.encoding]
        return line, sum(map(units, self.text[self._starts[line] : offset]))

    def offset(self, position: Position) -> int:
        """The character at a position; one beyond a line's end means that end."""
        line, column = position
        if line >= len(self._starts):
            return len(self.text)
        start = self._starts[max(0, line)]
        end = self._starts[line + 1] if line + 1 < len(self._starts) else len(self.text)
        units = _UNITS[self.encoding]
        for offset in range(start, end):
            char = self.text[offset]
            if column <= 0 or char in "\r\n":
                return offset
            column -= units(char)
        return end
