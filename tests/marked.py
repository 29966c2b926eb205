"""Texts with a place in them, marked by `^`, which is no character of the language."""

from __future__ import annotations

from pathlib import Path

from moec import models
from moec.lsp.document import Document

MARK = "^"


def marked(text: str, path: Path | None = None) -> tuple[Document, int]:
    """The text without its mark, and where that was."""
    assert text.count(MARK) == 1, text
    offset = text.index(MARK)
    return Document(text.replace(MARK, ""), path), offset


def mark(text: str, before: str, inside: int = 0) -> str:
    """The text marked `inside` characters after the start of the only passage `before`."""
    assert text.count(before) == 1, (text.count(before), before)
    offset = text.index(before) + inside
    return text[:offset] + MARK + text[offset:]


def shipped(name: str) -> str:
    """The text of a shipped model."""
    found = models.read(name)
    assert found is not None
    return found[1]
