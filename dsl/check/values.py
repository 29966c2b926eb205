"""Syntax -> plain values, with their bounds.

Every function raises `Mistake` with the place and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from math import inf, isqrt, sqrt

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import syntax as s
from moec.dsl.diagnostics import Diagnostic, Mistake, nearest
from moec.dsl.quantities import BadNumber, Quantity, format_number, group, parse_quantity


@dataclass(frozen=True)
class Scope:
    """What a name can stand for among values: numbers, lists, patterns, and sizes of the model.

    `varying`: names of values that a `match layer` gives, where no layer is at hand.
    """

    values: Mapping[str, s.Expr]
    varying: frozenset[str] = frozenset()
    _known: dict[str, Quantity] = field(default_factory=dict, compare=False, repr=False)

    def resolve(self, expr: s.Expr) -> s.Expr:
        """What a name is bound to, through names of names; any other expression as it is."""
        for _ in range(limits.REFERENCES):
            if not isinstance(expr, s.Ref) or expr.text not in self.values:
                break
            expr = self.values[expr.text]
        return expr

    def number(self, ref: s.Ref, expected: str, left: int) -> Quantity:
        """The number a bound name stands for, which may follow from others, `left` names deep."""
        name = ref.text
        if name not in self._known:
            if not left:
                label = f"bindings refer to one another at most {limits.REFERENCES} deep"
                raise Mistake(c.TOO_DEEP.at(ref.span, label))
            value = self.values[name]
            if not s.is_number(value) and not isinstance(value, s.Ref):
                raise wrong_type(ref, expected)
            self._known[name] = quantity(value, self, expected, left - 1)
        return self._known[name]


EMPTY = Scope({})
_LARGEST = 10**300  # larger ones are no floats


def wrong_type(expr: s.Expr, expected: str) -> Mistake:
    """`expr` is not `expected`."""
    return Mistake(c.WRONG_TYPE.at(expr.span, f"expected {expected}, found {s.describe(expr)}"))


def not_yet(expr: s.Expr | s.Setting | s.Argument, what: str, *notes: str) -> Mistake:
    """A construct of the language that this version cannot compile."""
    return Mistake(c.NOT_YET.at(expr.span, f"{what} is not supported yet", *notes))


def quantity(expr: s.Expr, scope: Scope, expected: str, left: int = limits.REFERENCES) -> Quantity:
    """A number with its unit: a literal, a name, a root, a product. Computed numbers have no unit."""
    match expr:
        case s.Number(text=text):
            return _literal(expr, text)
        case s.Product():
            return Quantity(_product(expr, scope, left), "", "")
        case s.Invoke() if expr.name == "sqrt":
            return Quantity(_root(expr, scope, left), "", "")
        case s.Ref() if expr.text in scope.values:
            return scope.number(expr, expected, left)
        case s.Ref(names=(name,)) if name not in ("none", "true", "false", "rest"):
            raise Mistake(_unbound(expr, name, scope, expected))
    raise wrong_type(expr, expected)


def _literal(expr: s.Number, text: str) -> Quantity:
    try:
        return parse_quantity(text)
    except BadNumber as error:  # the parser has reported it
        raise Mistake(c.BAD_NUMBER.at(expr.span, str(error))) from None


def _unbound(expr: s.Expr, name: str, scope: Scope, expected: str) -> Diagnostic:
    if name in scope.varying:
        label = f"expected {expected}; `{name}` is another in every layer"
        return c.VARIES.at(expr.span, label)
    advice = nearest(name, list(scope.values)) if scope.values else ""
    return c.UNKNOWN_NAME.at(expr.span, f"expected {expected}; `{name}` is not bound", advice=advice)


def _product(expr: s.Product, scope: Scope, left: int) -> Fraction:
    result = Fraction(1)
    for operator, factor in expr.steps():
        number = plain(factor, scope, "a number", left)
        if operator == "/" and not number:
            raise Mistake(c.OUT_OF_RANGE.at(factor.span, "a number divided by 0"))
        result = result * number if operator == "*" else result / number
        if result.numerator.bit_length() + result.denominator.bit_length() > limits.NUMBER_BITS:
            raise Mistake(c.TOO_LARGE.at(expr.span, "a product of more digits than can be held"))
    return result


def _root(call: s.Invoke, scope: Scope, left: int) -> Fraction:
    """Exact where the root is a fraction, else the nearest float."""
    if len(call.arguments) != 1 or call.arguments[0].name is not None:
        raise Mistake(c.WRONG_TYPE.at(call.span, "expected `sqrt` of one number, such as `sqrt(width)`"))
    number = plain(call.arguments[0].value, scope, "a number", left)
    if not 0 <= number <= limits.ROOT_OF:
        bounds = f"0 <= x <= {limits.ROOT_OF:.0e}"
        raise Mistake(c.OUT_OF_RANGE.at(call.span, f"x = {short(number)} of sqrt(x) breaks {bounds}"))
    top, bottom = isqrt(number.numerator), isqrt(number.denominator)
    exact = Fraction(top, bottom)
    return exact if exact * exact == number else Fraction(sqrt(number))


def plain(expr: s.Expr, scope: Scope, expected: str, left: int = limits.REFERENCES) -> Fraction:
    """A number without unit."""
    found = quantity(expr, scope, expected, left)
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
        computed = not isinstance(expr, s.Number | s.Ref)
        label = f"expected {expected}, found {short(number) if computed else s.describe(expr)}"
        raise Mistake(c.WRONG_TYPE.at(expr.span, label))
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
    """A number between two bounds, each open or closed. The default is a positive number.

    The bounds hold for the float it becomes: a number so small that this is 0 is not positive.
    """
    number = plain(expr, scope, f"{what}, a number")
    value = float(number) if abs(number) < _LARGEST else inf if number > 0 else -inf
    above = value > low if low_open else value >= low
    below = value < high if high_open else value <= high
    if not above or not below:
        bounds = f"{low:g} {'<' if low_open else '<='} {what} {'<' if high_open else '<='} {high:g}"
        raise Mistake(c.OUT_OF_RANGE.at(expr.span, f"{what} = {short(number)} breaks {bounds}"))
    return value


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
    if abs(number) < 10**24 and len(text := format_number(number)) <= 24:
        return text
    return f"{Decimal(number.numerator) / Decimal(number.denominator):.6g}"
