"""Syntax -> plain values, with their bounds.

Every function raises `Mistake` with the place and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

from moec.dsl import catalogue as c
from moec.dsl import syntax as s
from moec.dsl.diagnostics import Mistake, nearest
from moec.dsl.quantities import BadNumber, Quantity, format_number, group, parse_quantity


@dataclass(frozen=True)
class Scope:
    """What a name can stand for among values: integer and list bindings, and sizes of the model."""

    values: Mapping[str, s.Expr]

    def resolve(self, expr: s.Expr) -> s.Expr:
        """The number or list a name is bound to; any other expression as it is."""
        if isinstance(expr, s.Ref) and expr.text in self.values:
            return self.values[expr.text]
        return expr


EMPTY = Scope({})


def wrong_type(expr: s.Expr, expected: str) -> Mistake:
    """`expr` is not `expected`."""
    return Mistake(c.WRONG_TYPE.at(expr.span, f"expected {expected}, found {s.describe(expr)}"))


def not_yet(expr: s.Expr | s.Setting | s.Argument, what: str, *notes: str) -> Mistake:
    """A construct of the language that this version cannot compile."""
    return Mistake(c.NOT_YET.at(expr.span, f"{what} is not supported yet", *notes))


def quantity(expr: s.Expr, scope: Scope, expected: str) -> Quantity:
    """A number with its unit; a malformed one has been reported by the parser."""
    value = scope.resolve(expr)
    if (
        isinstance(value, s.Ref)
        and len(value.names) == 1
        and value.text not in ("none", "true", "false", "rest")
    ):
        advice = nearest(value.text, list(scope.values)) if scope.values else ""
        raise Mistake(
            c.UNKNOWN_NAME.at(expr.span, f"expected {expected}; `{value.text}` is not bound", advice=advice)
        )
    if not isinstance(value, s.Number):
        raise wrong_type(expr, expected)
    try:
        return parse_quantity(value.text)
    except BadNumber as error:
        raise Mistake(c.BAD_NUMBER.at(value.span, str(error))) from None


def plain(expr: s.Expr, scope: Scope, expected: str) -> Fraction:
    """A number without unit."""
    found = quantity(expr, scope, expected)
    value = scope.resolve(expr)
    if found.unit or (isinstance(value, s.Number) and value.word):
        raise Mistake(c.WRONG_UNIT.at(expr.span, f"expected {expected}, without a unit"))
    return found.value


def whole(
    expr: s.Expr, what: str, high: int, low: int = 1, scope: Scope = EMPTY, prefix_of_tokens: bool = False
) -> int:
    """A whole number within [low, high]."""
    expected = f"{what}, a whole number"
    number = plain(expr, scope, expected)
    if prefix_of_tokens:
        number = quantity(expr, scope, expected).tokens
    if number.denominator != 1:
        raise wrong_type(expr, expected)
    if not low <= number <= high:
        bounds = f"{group(low)} <= {what} <= {group(high)}"
        raise Mistake(c.OUT_OF_RANGE.at(expr.span, f"{what} = {short(number)} breaks {bounds}"))
    return int(number)


def real(
    expr: s.Expr,
    what: str,
    low: float = 0.0,
    high: float = 1e30,
    scope: Scope = EMPTY,
    low_open: bool = True,
    high_open: bool = False,
) -> float:
    """A number between two bounds, each open or closed. The default is a positive number."""
    number = plain(expr, scope, f"{what}, a number")
    above = number > Fraction(low) if low_open else number >= Fraction(low)
    below = number < Fraction(high) if high_open else number <= Fraction(high)
    if not above or not below:
        bounds = f"{low:g} {'<' if low_open else '<='} {what} {'<' if high_open else '<='} {high:g}"
        raise Mistake(c.OUT_OF_RANGE.at(expr.span, f"{what} = {short(number)} breaks {bounds}"))
    return float(number)


def flag(expr: s.Expr, what: str) -> bool:
    """`true` or `false`."""
    if isinstance(expr, s.Ref) and expr.text in ("true", "false"):
        return expr.text == "true"
    raise wrong_type(expr, f"{what}, true or false")


def word(expr: s.Expr, what: str, words: tuple[str, ...], later: tuple[str, ...] = ()) -> str:
    """One of a few words; those in `later` are answered with `not supported yet`."""
    if not isinstance(expr, s.Ref):
        raise wrong_type(expr, f"{what}, one of " + ", ".join(f"`{w}`" for w in words))
    if expr.text in later:
        raise not_yet(expr, f"`{what} = {expr.text}`")
    if expr.text not in words:
        advice = nearest(expr.text, words, later)
        raise Mistake(c.UNKNOWN_NAME.at(expr.span, f"`{expr.text}` is no value of {what}", advice=advice))
    return expr.text


def whole_list(expr: s.Expr, what: str, low: int, high: int, limit: int) -> tuple[int, ...]:
    """A list of whole numbers."""
    if not isinstance(expr, s.ListOf):
        raise wrong_type(expr, f"{what}, a list of whole numbers")
    if len(expr.items) > limit:
        raise Mistake(c.TOO_LARGE.at(expr.span, f"a list has at most {group(limit)} items"))
    return tuple(whole(item, what, high, low) for item in expr.items)


def is_none(expr: s.Expr) -> bool:
    """The word `none`."""
    return isinstance(expr, s.Ref) and expr.text == "none"


def short(number: Fraction) -> str:
    """A number for a message, however long it was written."""
    text = format_number(number)
    return text if len(text) <= 24 else f"{float(number):.6g}"
