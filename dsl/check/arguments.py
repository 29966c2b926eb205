"""A call's arguments bound to the parameters of its construct."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import syntax as s
from moec.dsl.check.values import not_yet
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.source import Span
from moec.dsl.vocabulary import CONSTRUCTS, Construct, Role, of_role

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Arguments:
    """The arguments that were given, by parameter. `sound` turns false in `read` when one cannot be read."""

    call: s.Invoke
    given: dict[str, s.Expr]
    bag: DiagnosticBag
    faults: set[str]

    def has(self, name: str) -> bool:
        """Whether the argument was given."""
        return name in self.given

    def sound(self, *names: str) -> bool:
        """Whether these were read without fault, so that rules between them can be checked."""
        return not self.faults.intersection(names)

    def read(self, name: str, reader: Callable[[s.Expr], T], default: D) -> T | D:
        """The value of an argument, or its default where it is absent or (after reporting why) unusable."""
        if name not in self.given:
            return default
        before = self.bag.reports
        value = self._attempt(name, reader, default)
        if self.bag.reports > before:
            self.faults.add(name)
        return value

    def _attempt(self, name: str, reader: Callable[[s.Expr], T], default: D) -> T | D:
        try:
            return reader(self.given[name])
        except Mistake as mistake:
            self.bag.add(mistake.diagnostic)
            return default

    def span_of(self, *names: str) -> Span:
        """The place of the first of these that was given, else of the callee."""
        return next((self.given[n].span for n in names if n in self.given), self.call.callee.span)


def callee(expr: s.Expr, roles: Sequence[Role], expected: str) -> tuple[Construct, s.Invoke]:
    """The construct an expression calls, if it has one of `roles`.

    A bare name is a call without arguments.
    """
    call = s.Invoke(expr, (), expr.span) if isinstance(expr, s.Ref) else expr
    if not isinstance(call, s.Invoke) or not isinstance(call.callee, s.Ref):
        raise Mistake(c.WRONG_TYPE.at(expr.span, f"expected {expected}, found {s.describe(expr)}"))
    construct = CONSTRUCTS.get(call.name)
    if construct is None:
        advice = nearest(call.name, of_role(*roles), of_role(*roles, supported=False))
        raise Mistake(c.UNKNOWN_COMPONENT.at(call.callee.span, f"expected {expected}", advice=advice))
    if construct.role not in roles:
        raise Mistake(c.MISPLACED.at(call.callee.span, f"expected {expected}, found `{call.name}`"))
    if not construct.supported:
        raise not_yet(call.callee, f"`{call.name}`")
    return construct, call


def bind(construct: Construct, call: s.Invoke, bag: DiagnosticBag) -> Arguments:
    """Report unknown, repeated, unnamed and missing arguments; keep the others."""
    given: dict[str, s.Expr] = {}
    if len(call.arguments) > limits.ARGUMENTS:
        raise Mistake(c.TOO_LARGE.at(call.callee.span, f"a call has at most {limits.ARGUMENTS} arguments"))
    for index, argument in enumerate(call.arguments):
        name = bag.attempt(_parameter, construct, argument, index)
        if name is None:
            continue
        if name in given:
            bag.add(c.DUPLICATE.at(argument.span, f"`{name}` is given twice"))
            continue
        given[name] = argument.value
    faults = set(_missing(construct, call, given, bag))
    return Arguments(call, given, bag, faults)


def _parameter(construct: Construct, argument: s.Argument, index: int) -> str:
    if argument.name is None:
        if index == 0 and construct.positional:
            return construct.params[0].name
        names = [p.name for p in construct.params]
        takes = (
            f"`{construct.name}` takes named arguments: {', '.join(names)}"
            if names
            else "it takes no arguments"
        )
        raise Mistake(c.TOO_MANY_ARGUMENTS.at(argument.span, takes))
    found = construct.param(argument.name)
    if found is None:
        advice = nearest(argument.name, [p.name for p in construct.params])
        label = f"`{construct.name}` has no argument `{argument.name}`"
        raise Mistake(c.UNKNOWN_ARGUMENT.at(argument.span, label, advice=advice))
    return found.name


def _missing(construct: Construct, call: s.Invoke, given: dict[str, s.Expr], bag: DiagnosticBag) -> list[str]:
    missing = [p for p in construct.params if p.default is None and p.name not in given]
    for param in missing:
        label = f"`{construct.name}` needs `{param.name}`: {param.value}"
        bag.add(c.MISSING_ARGUMENT.at(call.callee.span, label))
    return [p.name for p in missing]
