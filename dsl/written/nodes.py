"""Syntax nodes that stand in no text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from moec.dsl import syntax as s
from moec.dsl.quantities import group
from moec.dsl.source import SourceText, Span

NOWHERE = Span(SourceText("<written>", ""), 0, 0)

Value = s.Expr | int | float | bool | str | None | Sequence[float]


def node(value: Value) -> s.Expr:
    """A value as the language writes it: a number, a word, `none`, a list of numbers."""
    match value:
        case None:
            return s.Ref(("none",), NOWHERE)
        case bool():
            return s.Ref(("true" if value else "false",), NOWHERE)
        case int() | float():
            return s.Number(number(value), "", NOWHERE)
        case str():
            return s.Ref((value,), NOWHERE)
        case tuple() | list():
            return s.ListOf(tuple(map(node, value)), NOWHERE)
    assert not isinstance(value, Sequence)
    return value


def number(value: float) -> str:
    """A number that is read as the same: whole ones grouped, others in the fewest digits."""
    if value == int(value) and abs(value) < 1e15:
        return group(int(value))
    return (
        repr(float(value)).replace("e-0", "e-").replace("e+", "e") if value != int(value) else _whole(value)
    )


def _whole(value: float) -> str:
    return f"{Decimal(repr(float(value))).normalize():e}".replace("e+", "e")


def call(name: str, *first: Value, **arguments: Value) -> s.Invoke:
    """`name(first, argument: value)`. An argument that is `ABSENT` is left out."""
    given = [s.Argument(None, node(value), NOWHERE) for value in first]
    given += [
        s.Argument(key, node(value), NOWHERE) for key, value in arguments.items() if value is not ABSENT
    ]
    return s.Invoke(s.Ref((name,), NOWHERE), tuple(given), NOWHERE)


def setting(name: str, value: s.Expr) -> s.Setting:
    """`name = value`."""
    target = s.Target((s.Field(name),), False, NOWHERE)
    return s.Setting((target,), False, value, None, NOWHERE)


ABSENT = s.String("", NOWHERE)
