"""Into a value along a path: arguments of what it calls, parts of a router, the output projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from moec.dsl import syntax as s
from moec.dsl.vocabulary import CONSTRUCTS, Construct

from . import parts
from .steps import ABSENT, BY_NAME, Edit, NoPath, as_call, default_of, given, is_word, with_argument


def down(value: s.Expr, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    """The value with what the rest of the path (from `step`) leads to replaced."""
    if isinstance(value, s.Repeat):
        return _repeat(value, path, step, change)
    if step == len(path):
        return change(value)
    if isinstance(value, s.Ref) and value.text in CONSTRUCTS:
        value = as_call(value)
    construct = CONSTRUCTS.get(value.name) if isinstance(value, s.Invoke) else None
    if not isinstance(value, s.Invoke) or construct is None:
        label = f"`{'.'.join(path[:step])}` is {s.describe(value)} and has no `{path[step]}`"
        absent = value is ABSENT or is_word(value, "none")
        raise NoPath(step, label, absent=absent, advice=BY_NAME if isinstance(value, s.Match) else "")
    return _argument(value, construct, path, step, change)


def _repeat(value: s.Repeat, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    """`N of body`: a path that ends here is N, a longer one leads into the body."""
    if step < len(path):
        return replace(value, body=down(value.body, path, step, change))
    count = change(value.count)
    is_count = isinstance(count, s.Number) or (isinstance(count, s.Ref) and count.text != "none")
    return replace(value, count=count) if is_count else count


def _argument(call: s.Invoke, construct: Construct, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    param = construct.param(path[step])
    if param is None:
        names = [p.name for p in construct.params]
        raise NoPath(step, f"`{construct.name}` has no argument `{path[step]}`", names, path[step])
    old = given(call, construct, param)
    current = old.value if old else default_of(param)
    named = _NAMED_PARTS.get((construct.name, param.name)) if step + 1 < len(path) else None
    inner = named(current, path, step + 1, change, down) if named else down(current, path, step + 1, change)
    return with_argument(call, param, old, inner)


_NAMED_PARTS: dict[tuple[str, str], Callable[[s.Expr, Sequence[str], int, Edit, parts.Down], s.Expr]] = {
    ("moe", "router"): parts.stage,
    ("moe", "balance"): parts.term,
}


# --- `logits` ---


def output(value: s.Expr, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    """The equation of the output with one of its parts changed: an argument of `linear`, or the softcap."""
    if step == len(path):
        return change(value)
    if path[step] == "softcap" and step + 1 == len(path):
        return _capped(value, change)
    return _linear(value, path, step, change)


def _capped(value: s.Expr, change: Edit) -> s.Expr:
    """`none` takes the cap away, a number puts one around."""
    if isinstance(value, s.Invoke) and value.name == "softcap" and len(value.arguments) == 2:
        inner, limit = value.arguments
        new = change(limit.value)
        if is_word(new, "none"):
            return inner.value
        return replace(value, arguments=(inner, replace(limit, value=new)))
    new = change(s.Ref(("none",), value.span))
    if is_word(new, "none"):
        return value
    arguments = (s.Argument(None, value, value.span), s.Argument(None, new, new.span))
    return s.Invoke(s.Ref(("softcap",), value.span), arguments, value.span)


def _linear(value: s.Expr, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    match value:
        case s.Invoke() if value.name == "softcap" and value.arguments:
            first = value.arguments[0]
            changed = replace(first, value=_linear(first.value, path, step, change))
            return replace(value, arguments=(changed, *value.arguments[1:]))
        case s.Product(factors=factors):
            calls = [i for i, one in enumerate(factors) if isinstance(one, s.Invoke) and not s.is_number(one)]
            index = calls[0] if calls else 0
            changed_factor = _linear(factors[index], path, step, change)
            return replace(value, factors=(*factors[:index], changed_factor, *factors[index + 1 :]))
    return down(value, path, step, change)
