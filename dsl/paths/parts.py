"""The parts of a pipeline or of a sum, by name: `experts.router.top`, `experts.balance.aux_loss`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from moec.dsl import syntax as s
from moec.dsl.source import Span
from moec.dsl.vocabulary import CHOOSERS, CONSTRUCTS, ROUTER_ORDER, Construct, Role, of_role

from .steps import ABSENT, Edit, NoPath, as_call, given, is_word, with_argument

_SCORES = ("softmax", "sigmoid")  # which may stand after the choice, too
Down = Callable[[s.Expr, Sequence[str], int, Edit], s.Expr]


def parts(value: s.Expr) -> list[s.Expr]:
    """The stages of a pipeline, or the terms of a sum; of `none`, none."""
    match value:
        case s.Pipe(stages=several) | s.Sum(terms=several):
            return list(several)
        case s.Ref(names=("none",)):
            return []
    return [value]


def _name(part: s.Expr) -> str:
    return part.text if isinstance(part, s.Ref) else part.name if isinstance(part, s.Invoke) else ""


def _index(several: Sequence[s.Expr], name: str, what: str, step: int) -> int | None:
    found = [index for index, part in enumerate(several) if _name(part) == name]
    if len(found) > 1:
        raise NoPath(step, f"the {what} has `{name}` {len(found)} times, and a path cannot tell them apart")
    return found[0] if found else None


def _check_word(role: Role, name: str, step: int) -> None:
    if name in of_role(role, supported=False):
        raise NoPath(step, f"`{name}` is not supported yet")
    if name not in of_role(role):
        raise NoPath(step, f"there is no `{name}`", of_role(role), name)


# --- stages of a router ---


def stage(router: s.Expr, path: Sequence[str], step: int, change: Edit, down: Down) -> s.Expr:
    """The router with one stage changed.

    A stage that needs a value is that value, and `none` takes it away; another is there or not, `true` or
    `false`. Further steps are arguments of the stage.
    """
    name = path[step]
    _check_word("stage", name, step)
    stages, construct = parts(router), CONSTRUCTS[name]
    index = _index(stages, name, "router", step)
    if len(path) > step + 1:
        if index is None:
            raise NoPath(step, f"the router has no stage `{name}`", absent=True)
        stages[index] = down(stages[index], path, step + 1, change)
    elif construct.positional:
        stages = _valued(stages, construct, index, step, change)
    else:
        stages = _switched(stages, name, index, change(_flag(index is not None, router.span)), step)
    return stages[0] if len(stages) == 1 else s.Pipe(tuple(stages), router.span)


def _flag(value: bool, span: Span) -> s.Expr:
    return s.Ref(("true" if value else "false",), span)


def _valued(
    stages: list[s.Expr], construct: Construct, index: int | None, step: int, change: Edit
) -> list[s.Expr]:
    name, param = construct.name, construct.params[0]
    if index is not None:
        call = as_call(stages[index])
        old = given(call, construct, param)
        value = change(old.value if old else ABSENT)
        if is_word(value, "none") and name not in CHOOSERS:
            return stages[:index] + stages[index + 1 :]
        return [*stages[:index], with_argument(call, param, old, value), *stages[index + 1 :]]
    needed = [other for other in construct.params if other.default is None]
    if name in CHOOSERS or len(needed) > 1:
        raise NoPath(step, f"the router has no stage `{name}`", absent=True)
    value = change(ABSENT)
    if is_word(value, "none"):
        return stages
    call = s.Invoke(s.Ref((name,), value.span), (s.Argument(None, value, value.span),), value.span)
    return _inserted(stages, name, call)


def _switched(stages: list[s.Expr], name: str, index: int | None, value: s.Expr, step: int) -> list[s.Expr]:
    wanted = is_word(value, "true")
    if not wanted and not is_word(value, "false", "none"):
        raise NoPath(step, f"the stage `{name}` is there or not: true or false, not {s.describe(value)}")
    if wanted == (index is not None):
        return stages
    if index is not None:
        return stages[:index] + stages[index + 1 :]
    return _inserted(stages, name, s.Ref((name,), value.span))


def _inserted(stages: list[s.Expr], name: str, new: s.Expr) -> list[s.Expr]:
    """A stage in its place: a score before the choice, a factor after it."""
    choice = ROUTER_ORDER.index(CHOOSERS)
    orders = [order for order, group in enumerate(ROUTER_ORDER) if name in group]
    order = orders[0] if name in _SCORES else orders[-1]
    chosen = next((i for i, one in enumerate(stages) if _name(one) in CHOOSERS), len(stages))
    if order < choice:
        start, stop, groups = 0, chosen, ROUTER_ORDER[order + 1 : choice]
    else:
        start, stop, groups = chosen + 1, len(stages), ROUTER_ORDER[order + 1 :]
    later = {one for group in groups for one in group}
    place = next((i for i in range(start, stop) if _name(stages[i]) in later), stop)
    return [*stages[:place], new, *stages[place:]]


# --- terms of a balance ---


def term(balance: s.Expr, path: Sequence[str], step: int, change: Edit, down: Down) -> s.Expr:
    """The sum of loss terms with one of them changed: by its coefficient, 0 where there is none."""
    name, terms = path[step], parts(balance)
    _check_word("balance", name, step)
    index = _index(terms, name, "balance", step)
    if len(path) > step + 1:
        if index is None:
            raise NoPath(step, f"`balance` has no term `{name}`", absent=True)
        terms[index] = down(terms[index], path, step + 1, change)
    else:
        terms = _weighted(terms, name, index, balance.span, change)
    if not terms:
        return s.Ref(("none",), balance.span)
    return terms[0] if len(terms) == 1 else s.Sum(tuple(terms), balance.span)


def _weighted(terms: list[s.Expr], name: str, index: int | None, span: Span, change: Edit) -> list[s.Expr]:
    """A coefficient of 0 or `none` takes the term away; another adds it where it was absent."""
    param = CONSTRUCTS[name].params[0]
    if index is None:
        value = change(s.Number("0", "", span))
        callee = s.Ref((name,), value.span)
        new = s.Invoke(callee, (s.Argument(None, value, value.span),), value.span)
        return terms if _is_zero(value) else [*terms, new]
    call = as_call(terms[index])
    old = given(call, CONSTRUCTS[name], param)
    value = change(old.value if old else s.Number("0", "", span))
    if _is_zero(value):
        return [one for i, one in enumerate(terms) if i != index]
    return [*terms[:index], with_argument(call, param, old, value), *terms[index + 1 :]]


def _is_zero(value: s.Expr) -> bool:
    if isinstance(value, s.Number):
        return not value.text.strip("0_.")
    return is_word(value, "none")
