"""Texts and places in them: every node of the syntax tree and every diagnostic points here."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property

from moec.dsl.spec import Origin


@dataclass(frozen=True)
class SourceText:
    """A named text: a file, a shipped model, or the argument of `--set`."""

    name: str
    text: str

    @cached_property
    def line_starts(self) -> tuple[int, ...]:
        """The offset of the first character of every line."""
        return (0, *(i + 1 for i, char in enumerate(self.text) if char == "\n"))

    def line_of(self, offset: int) -> int:
        """The line that holds `offset`, from 1."""
        return bisect_right(self.line_starts, offset)

    def column_of(self, offset: int) -> int:
        """The column of `offset` in its line, from 1, in characters."""
        return offset - self.line_starts[self.line_of(offset) - 1] + 1

    def line_text(self, line: int) -> str:
        """The text of a line (from 1), without its end."""
        start = self.line_starts[line - 1]
        end = self.line_starts[line] if line < len(self.line_starts) else len(self.text) + 1
        return self.text[start : end - 1].rstrip("\r")


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a text."""

    source: SourceText
    start: int
    end: int

    def __contains__(self, other: Span) -> bool:
        return self.source is other.source and self.start <= other.start and other.end <= self.end

    @property
    def line(self) -> int:
        """The line of the first character, from 1."""
        return self.source.line_of(self.start)

    @property
    def last_line(self) -> int:
        """The line of the last character, from 1."""
        return self.source.line_of(max(self.start, self.end - 1))

    @property
    def column(self) -> int:
        """The column of the first character, from 1."""
        return self.source.column_of(self.start)

    @property
    def text(self) -> str:
        """The characters themselves."""
        return self.source.text[self.start : self.end]

    def to(self, other: Span) -> Span:
        """From the start of this span to the end of a later one in the same text."""
        return Span(self.source, self.start, other.end)

    def origin(self) -> Origin:
        """The short form that travels through graphs and bundles."""
        return Origin(self.source.name, self.line, self.source.line_text(self.line).strip())
