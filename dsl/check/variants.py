"""What `match layer` makes of expressions: their distinct forms, and which one each layer has.

A form is the expression with the chosen arm in the place of every match, so that whoever checks it sees plain
syntax and knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import syntax as s
from moec.dsl.check.matching import Matcher
from moec.dsl.diagnostics import Diagnostic, Mistake
from moec.dsl.source import Span
from moec.dsl.trees import rebuild, walk

_Chosen = dict[int, dict[int, int]]  # by identity of a match: the arm of each layer that reaches it


@dataclass(frozen=True)
class Variants:
    """The distinct forms of some named expressions together; `of_layer[i]` is the form that layer i has."""

    forms: tuple[Mapping[str, s.Expr], ...]
    of_layer: tuple[int, ...]


@dataclass
class Work:
    """What checking all the forms has cost so far, in expressions; it is limited over the whole model."""

    spent: int = 0
    excess: Diagnostic | None = None

    def spend(self, exprs: Iterable[s.Expr], forms: int, place: Span) -> None:
        """Account for the check of some forms of these expressions. Raises Mistake past the limit."""
        self.spent += forms * sum(1 for expr in exprs for _ in walk(expr))
        if self.excess is None and self.spent > limits.CHOICES:
            label = "with this, the layers are of too many different kinds for a model of this size"
            self.excess = c.TOO_LARGE.at(place, label)
        if self.excess is not None:
            raise Mistake(self.excess)


def has_match(expr: s.Expr) -> bool:
    """Whether a match stands anywhere in an expression."""
    return any(isinstance(one, s.Match) for one in walk(expr))


def variants(exprs: Mapping[str, s.Expr], matcher: Matcher) -> Variants:
    """Decide every match in the expressions for every layer. Raises Mistake."""
    chosen: _Chosen = {}
    for expr in exprs.values():
        _decide(expr, range(matcher.total), matcher, chosen)
    keys: dict[tuple[int, ...], int] = {}
    of_layer = tuple(
        keys.setdefault(tuple(arms.get(layer, -1) for arms in chosen.values()), len(keys))
        for layer in range(matcher.total)
    )
    first = {form: layer for layer, form in reversed(list(enumerate(of_layer)))}
    forms = tuple(
        {name: _form(expr, first[form], chosen) for name, expr in exprs.items()} for form in range(len(keys))
    )
    return Variants(forms, of_layer)


def _decide(expr: s.Expr, layers: Sequence[int], matcher: Matcher, chosen: _Chosen) -> None:
    """Choose for the outermost matches, and for those inside an arm in the layers that reach it."""
    for match in walk(expr, lambda one: not isinstance(one, s.Match)):
        if isinstance(match, s.Match):
            arms = matcher.choose(match, layers)
            chosen.setdefault(id(match), {}).update(arms)
            for index, arm in enumerate(match.arms):
                inside = [layer for layer in layers if arms[layer] == index]
                if inside:
                    _decide(arm.value, inside, matcher, chosen)


def _form(expr: s.Expr, layer: int, chosen: _Chosen) -> s.Expr:
    if isinstance(expr, s.Match):
        return _form(expr.arms[chosen[id(expr)][layer]].value, layer, chosen)
    if isinstance(expr, s.Invoke) and isinstance(expr.callee, s.Match):
        expr = replace(expr, callee=_callee(expr.callee, layer, chosen))
    return rebuild(expr, lambda one: _form(one, layer, chosen))


def _callee(match: s.Match, layer: int, chosen: _Chosen) -> s.Ref:
    arm = _form(match, layer, chosen)
    if not isinstance(arm, s.Ref):
        label = f"an arm gives a component by name, found {s.describe(arm)}"
        raise Mistake(c.BAD_EQUATION.at(arm.span, label))
    return arm
