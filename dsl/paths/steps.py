"""What every walk along a path needs: failing at a step, absent values, arguments of a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from moec.dsl import syntax as s
from moec.dsl.diagnostics import DiagnosticBag, nearest
from moec.dsl.parse import parse_expression
from moec.dsl.source import SourceText, Span
from moec.dsl.vocabulary import Construct, Param

Edit = Callable[[s.Expr], s.Expr]
ABSENT = s.String("", Span(SourceText("<absent>", ""), 0, 0))
"""Stands for a value that is not given and has no default of its own."""

BY_NAME = "bind the value of an arm to a name of the model: that name can be given here"
"""What to do where a path would lead into a `match layer`."""


class NoPath(Exception):  # noqa: N818
    """A path leads nowhere. `step` is the index of the first step that fails.

    `absent`: the path is one of the language, and leads nowhere only because of a value such as `rope: none`.
    """

    def __init__(
        self,
        step: int,
        label: str,
        names: Sequence[str] = (),
        word: str = "",
        absent: bool = False,
        advice: str = "",
    ) -> None:
        super().__init__(label)
        self.absent = absent
        self.step = step
        self.label = label
        self.advice = nearest(word, list(names)) if names else advice


def is_word(expr: s.Expr, *words: str) -> bool:
    """Whether an expression is one of these bare names."""
    return isinstance(expr, s.Ref) and expr.text in words


@cache
def text_of(text: str) -> s.Expr:
    """The expression that a default of the vocabulary is written as."""
    bag = DiagnosticBag()
    value = parse_expression(SourceText("<default>", text), bag)
    assert value is not None, text
    return value


def default_of(param: Param) -> s.Expr:
    """The default of an absent value; `ABSENT` where there is none, or it follows from other values."""
    if param.default is None or param.derived:
        return ABSENT
    return text_of(param.default)


def means_default(param: Param, value: s.Expr) -> bool:
    """Whether `none` is given where it can only mean: leave it out."""
    return is_word(value, "none") and param.default is not None and not param.takes_none


def as_call(value: s.Expr) -> s.Invoke:
    """A call, or a bare name as a call without arguments."""
    assert isinstance(value, s.Invoke | s.Ref)
    return value if isinstance(value, s.Invoke) else s.Invoke(value, (), value.span)


def given(call: s.Invoke, construct: Construct, param: Param) -> s.Argument | None:
    """The argument of a call that is for this parameter."""
    first = construct.positional and param is construct.params[0]
    for index, argument in enumerate(call.arguments):
        if argument.name == param.name or (argument.name is None and index == 0 and first):
            return argument
    return None


def with_argument(call: s.Invoke, param: Param, old: s.Argument | None, value: s.Expr) -> s.Invoke:
    """The call with `value` in the place of the argument `old`, or added."""
    if means_default(param, value):
        return replace(call, arguments=tuple(a for a in call.arguments if a is not old))
    if old is None:
        return replace(call, arguments=(*call.arguments, s.Argument(param.name, value, value.span)))
    if value is old.value:
        return call
    new = replace(old, value=value, span=value.span)
    return replace(call, arguments=tuple(new if a is old else a for a in call.arguments))
