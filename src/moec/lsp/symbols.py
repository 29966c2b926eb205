"""The outline of a text: blocks, bindings, settings, layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from moec.dsl.tokens import Token

from .document import Document
from .tolerant import Group, Statement, end_of, start_of, statements

Kind = Literal["block", "component", "value", "setting", "equation"]
_SIZES = ("vocab", "width", "context", "init", "logits", "x")


@dataclass(frozen=True)
class Symbol:
    """A statement at [start, end), whose name is at [name_start, name_end)."""

    name: str
    kind: Kind
    detail: str
    start: int
    end: int
    name_start: int
    name_end: int
    children: tuple[Symbol, ...] = ()


def symbols(document: Document) -> tuple[Symbol, ...]:
    """The outline of any text, a broken one as far as it goes."""
    return tuple(_of_group(document, document.outline.top, ""))


def _of_group(document: Document, group: Group, kind: str) -> Iterator[Symbol]:
    for statement in statements(group):
        symbol = _block(document, statement) or _setting(document, statement, kind)
        if symbol is not None:
            yield symbol


def _block(document: Document, statement: Statement) -> Symbol | None:
    group, head = statement.block, statement.elements[0]
    if group is None or not isinstance(head, Token):
        return None
    last = statement.header or head
    name = " ".join(x.text for x in (head, statement.header) if x is not None)
    children = tuple(_of_group(document, group, head.text))
    return Symbol(name, "block", "", head.span.start, end_of(group), head.span.start, last.span.end, children)


def _setting(document: Document, statement: Statement, kind: str) -> Symbol | None:
    if statement.equals is None or not statement.target:
        return None
    start, end = start_of(statement.target[0]), end_of(statement.target[-1])
    name = document.source.text[start:end]
    value = statement.value
    detail = " ".join(document.source.text[start_of(value[0]) : end_of(value[-1])].split()) if value else ""
    return Symbol(
        name, _kind(name, statement, kind), detail[:60], start, end_of(statement.elements[-1]), start, end
    )


def _kind(name: str, statement: Statement, kind: str) -> Kind:
    if kind == "layers":
        return "equation"
    if kind != "model" or name in _SIZES:
        return "setting"
    called = any(
        isinstance(x, Group) and x.opener is not None and x.opener.kind == "LPAR" for x in statement.value
    )
    return "component" if called else "value"
