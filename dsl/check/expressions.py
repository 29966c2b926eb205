"""Expressions over values, `0.22 * norm(f(x)) + h` -> `Expression`, with the parameters of every call named.

Names of parameters follow the text, by these rules alone. A component called in a layer has its binding's
name. A norm inside its argument is `<component>.<norm>`; a norm around it `<component>.post_<norm>`; a norm
with no component inside or around it has its binding's name, and so has a norm around a sum. The norm of the
embedding is `embed_<norm>`, and in the output every component has its binding's name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from moec.dsl import catalogue as c
from moec.dsl import parameters
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.values import Scope, plain
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.source import Span

STREAM = "x"
Place = Literal["layer", "embed", "head"]


class Reported(Exception):  # noqa: N818
    """What an expression needs has a fault of its own, which is in the bag already."""


@dataclass
class Reader:
    """Reads expressions of one place. `locals` are the names that hold values, beside the residual stream."""

    place: Place
    find: Callable[[s.Ref], m.Component | None]
    scope: Scope
    locals: set[str] = field(default_factory=set)
    later: frozenset[str] = frozenset()  # names that get a value further down
    used: set[str] = field(default_factory=set)
    calls: list[tuple[m.Call, Span]] = field(default_factory=list)

    def value(self, expr: s.Expr, around: str = "") -> m.Expression:
        """The meaning of an expression; `around` is the component whose argument it is part of.

        Raises Mistake or Reported.
        """
        match expr:
            case s.Invoke() if not s.is_number(expr):
                return self._call(expr, around)
            case s.Sum(terms=terms):
                return m.Sum(tuple(self.value(term, around) for term in terms), expr.span.origin())
            case s.Product():
                return self._product(expr, around)
            case s.Ref() if expr.text == STREAM or expr.text in self.locals:
                self.used.add(expr.text)
                return m.Var(expr.text, expr.span.origin())
        raise self._no_value(expr)

    def _no_value(self, expr: s.Expr) -> Mistake:
        if self.is_number(expr):
            label = f"a number stands in front of a value, `0.5 * f(x)`; found {s.describe(expr)}"
            return Mistake(c.BAD_EQUATION.at(expr.span, label))
        if not isinstance(expr, s.Ref):
            label = f"expected `{STREAM}` or a call, found {s.describe(expr)}"
            return Mistake(c.BAD_EQUATION.at(expr.span, label))
        if expr.text in self.later:
            return Mistake(c.BAD_LOCAL.at(expr.span, f"`{expr.text}` gets its value further down"))
        label = f"expected `{STREAM}`, the residual stream, found `{expr.text}`"
        advice = nearest(expr.text, [STREAM, *sorted(self.locals)])
        return Mistake(c.BAD_EQUATION.at(expr.span, label, advice=advice))

    # --- products ---

    def is_number(self, expr: s.Expr) -> bool:
        """Whether an expression is a number rather than a value, by its form and by what names mean."""
        match expr:
            case s.Product(factors=factors):
                return all(map(self.is_number, factors))
            case s.Ref():
                return expr.text in self.scope.values or expr.text in self.scope.varying
        return s.is_number(expr)

    def _product(self, expr: s.Product, around: str) -> m.Expression:
        value = split_product(expr, self.is_number)
        if value is None:
            raise self._no_value(expr)
        return m.Scaled(self.factor(expr, value), self.value(value, around), expr.span.origin())

    def factor(self, product: s.Product, value: s.Expr) -> float:
        """What the numbers of a product, all its factors but `value`, multiply that value by."""
        numbers = [(operator, one) for operator, one in product.steps() if one is not value]
        factors = (s.Number("1", "", product.span), *(one for _, one in numbers))
        scale = s.Product(factors, tuple(operator for operator, _ in numbers), product.span)
        return as_float(scale, self.scope)

    # --- calls ---

    def _call(self, call: s.Invoke, around: str) -> m.Call:
        component = self._component(call)
        argument = only_argument(call)
        norm = isinstance(component, m.RmsNorm | m.LayerNorm)
        value = self.value(argument, around if norm else call.name)
        path = self._path(call.name, argument, around) if norm else call.name
        made = m.Call(path, component, value, call.span.origin())
        self.calls.append((made, call.callee.span))
        return made

    def _component(self, call: s.Invoke) -> m.Component:
        if not isinstance(call.callee, s.Ref):
            label = "`match layer` stands inside `layers N { ... }`"
            raise Mistake(c.MISPLACED.at(call.callee.span, label))
        found = self.find(call.callee)
        if found is None:
            raise Reported
        return found

    def _path(self, norm: str, argument: s.Expr, around: str) -> str:
        """The name of a norm's parameters: the rules of this module."""
        if self.place == "head":
            return norm
        if self.place == "embed":
            return f"embed_{norm}"
        if around:
            return f"{around}.{norm}"
        inside = self._inside(argument)
        return f"{inside}.post_{norm}" if inside else norm

    def _inside(self, expr: s.Expr) -> str:
        """The outermost component of a chain of calls that is no norm; "" if there is none."""
        while True:
            if isinstance(expr, s.Product):
                expr = split_product(expr, self.is_number) or expr.factors[0]
            if not isinstance(expr, s.Invoke) or s.is_number(expr):
                return ""
            if not isinstance(self._component(expr), m.RmsNorm | m.LayerNorm):
                return expr.name
            expr = only_argument(expr)


def as_float(number: s.Expr, scope: Scope) -> float:
    """A number as a float; a factor of a value may be negative, but is not 0 and no larger than 10^30."""
    found = plain(number, scope, "a factor, a number")
    if not 1e-30 <= abs(found) <= 1e30:
        raise Mistake(c.OUT_OF_RANGE.at(number.span, "a factor of a value is 1e-30 to 1e30 in size"))
    return float(found)


def split_product(product: s.Product, number: Callable[[s.Expr], bool]) -> s.Expr | None:
    """The one factor that is no number; None if all are numbers. Raises Mistake for other products."""
    values = [(operator, one) for operator, one in product.steps() if not number(one)]
    if len(values) > 1:
        label = f"a second value in a product, beside {s.describe(values[0][1])}"
        raise Mistake(c.BAD_PRODUCT.at(values[1][1].span, label))
    if values and values[0][0] == "/":
        raise Mistake(c.BAD_PRODUCT.at(values[0][1].span, "a number cannot be divided by a value"))
    return values[0][1] if values else None


def only_argument(call: s.Invoke) -> s.Expr:
    """The one value a component is applied to."""
    if len(call.arguments) != 1 or call.arguments[0].name is not None:
        raise Mistake(
            c.BAD_EQUATION.at(call.span, "a component takes one value here: `f(x)` or `f(norm(x))`")
        )
    return call.arguments[0].value


def check_unique(
    calls: Iterable[tuple[m.Call, Span]], width: int, bag: DiagnosticBag, taken: Iterable[str] | None = None
) -> None:
    """Report calls whose parameters have a name that another has, or (outside of a layer) one of `taken`."""
    owners = dict.fromkeys(taken or (), "")
    sound = not len(bag)
    for call, place in calls:
        for name in _names(call, width, sound):
            if name not in owners:
                owners[name] = call.path
                continue
            again = f"a second use of `{call.path}`{' in this layer' if taken is None else ''}"
            label = again if owners[name] == call.path else f"a second `{name}`"
            advice = "bind the component to another name and use that"
            bag.add(c.PARAMETERS_TWICE.at(place, label, advice=advice))
            break


def _names(call: m.Call, width: int, sound: bool) -> Iterator[str]:
    """The names of a call's parameters; of a component that may be unsound, what they start with."""
    if sound or isinstance(call.component, m.RmsNorm | m.LayerNorm):
        return (parameter.path for parameter in parameters.call_parameters(call, width))
    return iter((call.path,))
