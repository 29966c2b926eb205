"""A text stream that may go away: no run ends because its terminal was closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TextIO


class Forgiving:
    """A stream that ignores what cannot be written, and everything after it.

    It cannot be written where the reader is gone, or the encoding has not the letters.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._gone = stream, False

    @property
    def encoding(self) -> str:
        """That of the stream."""
        return self._stream.encoding or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    def fileno(self) -> int:
        """That of the stream."""
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write, if that is still possible."""
        self._try(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Flush, if that is still possible."""
        self._try(self._stream.flush)

    def _try(self, action: Callable[[], object]) -> None:
        if self._gone:
            return
        try:
            action()
        except (OSError, ValueError):
            self._gone = True
