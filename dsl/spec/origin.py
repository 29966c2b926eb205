"""Where a value of a specification came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """A place in a user's file, short enough to travel through graphs and bundles."""

    file: str
    line: int  # from 1
    text: str = ""  # the line itself, stripped

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


NOWHERE = Origin("<none>", 0)
