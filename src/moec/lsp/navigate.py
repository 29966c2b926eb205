"""Go to definition, find references, rename."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from moec.dsl.tokens import KEYWORDS
from moec.dsl.vocabulary import RESERVED

from .document import Document
from .names import SIZES, Mention


@dataclass(frozen=True)
class Place:
    """Characters [start, end) of a text; `path` is its file, None for the text at hand."""

    path: Path | None
    document: Document
    start: int
    end: int


@dataclass(frozen=True)
class Edit:
    """Characters [start, end) to be replaced."""

    start: int
    end: int
    text: str


class Refusal(Exception):  # noqa: N818
    """Why a name cannot be changed, in a user's words."""


def definition(document: Document, offset: int) -> Place | None:
    """Where the name at an offset is bound, or the text that a `use` names."""
    used = _use_at(document, offset)
    if used is not None:
        return Place(used.path, used, 0, 0)
    mention = document.names.at(offset)
    if mention is None:
        return None
    if mention.scope is not None:
        own = next((x for x in document.names.same(mention) if x.defines), None)
        return Place(None, document, own.start, own.end) if own is not None else None
    home = document.bound_in(mention.name)
    found = home.definition(mention.name) if home is not None else None
    if home is None or found is None:
        return None
    return Place(None if home is document else home.path, home, found.start, found.end)


def _use_at(document: Document, offset: int) -> Document | None:
    tokens = document.outline.tokens
    for before, token in pairwise(tokens):
        if before.kind == "USE" and before.span.start <= offset <= token.span.end:
            return document.target(token)
    return None


def references(document: Document, offset: int, with_definition: bool = True) -> list[Place]:
    """All places that mention the name at an offset, in this text."""
    mention = document.names.at(offset)
    found = document.names.same(mention) if mention is not None else []
    return [Place(None, document, x.start, x.end) for x in found if with_definition or not x.defines]


def renamable(document: Document, offset: int) -> Mention:
    """The name at an offset, if it can be renamed. Raises Refusal."""
    mention = document.names.at(offset)
    if mention is None:
        raise Refusal("there is no name that this text binds")
    if mention.name in SIZES:
        raise Refusal(f"`{mention.name}` is a setting of the model and keeps its name")
    if mention.scope is None:
        home = document.bound_in(mention.name)
        if home is None:
            raise Refusal(f"`{mention.name}` is bound nowhere")
        if mention.name in document.inherited_names:
            below = next(x for x in reversed(document.used) if x.definition(mention.name) is not None)
            raise Refusal(f"`{mention.name}` is bound in {below.name}, which this text uses")
    return mention


def rename(document: Document, offset: int, new: str) -> list[Edit]:
    """The edits that give a name of this text another name everywhere. Raises Refusal."""
    mention = renamable(document, offset)
    _check_free(document, mention, new)
    edits = [Edit(x.start, x.end, new) for x in document.names.same(mention)]
    if document.checked.spec is not None and new != mention.name:
        changed = Document(apply(document.text, edits), document.path).checked
        if changed.diagnostics:
            raise Refusal(f"with the name `{new}` the text is wrong: {changed.diagnostics[0].label}")
    return edits


def _check_free(document: Document, mention: Mention, new: str) -> None:
    if not (new.isidentifier() and new.isascii()):
        raise Refusal(f"`{new}` is no name: a name is letters, digits and `_`, and starts with no digit")
    if new in KEYWORDS or new in RESERVED or new in SIZES:
        raise Refusal(f"`{new}` has a fixed meaning and cannot be bound")
    if new != mention.name and any(x.name == new for x in _rivals(document, mention)):
        raise Refusal(f"`{new}` is bound already")


def _rivals(document: Document, mention: Mention) -> Iterator[Mention]:
    """The names that a new one must differ from: those of the model, and locals it can meet."""
    yield from (Mention(name, 0, 0) for name in document.names.bindings)
    for other in document.names.mentions:
        if other.scope is not None and mention.scope in (None, other.scope):
            yield other


def apply(text: str, edits: list[Edit]) -> str:
    """The text with all edits made; they do not overlap."""
    for edit in sorted(edits, key=lambda one: one.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text
