"""Walks over expressions of the syntax tree, without recursion in depth where only looking is needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from moec.dsl import syntax as s


def children(expr: s.Expr) -> Sequence[s.Expr]:
    """The expressions directly inside one, in the order of the text; of a match, the values of its arms."""
    match expr:
        case s.Invoke():
            return (expr.callee, *(argument.value for argument in expr.arguments))
        case s.ListOf(items=parts) | s.TupleOf(items=parts) | s.Pipe(stages=parts) | s.Sum(terms=parts):
            return parts
        case s.Product(factors=parts):
            return parts
        case s.Range(start=first, stop=second) | s.Repeat(count=first, body=second):
            return (first, second)
        case s.Match(arms=arms):
            return tuple(arm.value for arm in arms)
    return ()


def walk(expr: s.Expr, into: Callable[[s.Expr], bool] = lambda _: True) -> Iterator[s.Expr]:
    """The expression and all inside it, outer ones first; what `into` denies is given but not entered."""
    waiting = [expr]
    while waiting:
        one = waiting.pop()
        yield one
        if into(one):
            waiting.extend(reversed(children(one)))


def rebuild(expr: s.Expr, change: Callable[[s.Expr], s.Expr]) -> s.Expr:
    """The expression with each of its direct children changed; itself where none is.

    The callee of an `Invoke` is left as it is.
    """
    match expr:
        case s.Invoke(arguments=arguments):
            values = _changed(tuple(a.value for a in arguments), change)
            if values is None:
                return expr
            given = zip(arguments, values, strict=True)
            return replace(expr, arguments=tuple(replace(a, value=v) for a, v in given))
        case s.ListOf(items=parts) | s.TupleOf(items=parts):
            changed = _changed(parts, change)
            return expr if changed is None else replace(expr, items=changed)
        case s.Pipe(stages=parts):
            changed = _changed(parts, change)
            return expr if changed is None else replace(expr, stages=changed)
        case s.Sum(terms=parts):
            changed = _changed(parts, change)
            return expr if changed is None else replace(expr, terms=changed)
        case s.Product(factors=parts):
            changed = _changed(parts, change)
            return expr if changed is None else replace(expr, factors=changed)
        case s.Repeat(count=count, body=body):
            changed = _changed((count, body), change)
            return expr if changed is None else replace(expr, count=changed[0], body=changed[1])
        case s.Range(start=start, stop=stop):
            changed = _changed((start, stop), change)
            return expr if changed is None else replace(expr, start=changed[0], stop=changed[1])
    return expr


def renamed(expr: s.Expr, names: Mapping[str, s.Expr]) -> s.Expr:
    """The expression with other expressions in the place of some names."""
    if isinstance(expr, s.Ref):
        return names.get(expr.text, expr)
    return rebuild(expr, lambda one: renamed(one, names))


def _changed(parts: Sequence[s.Expr], change: Callable[[s.Expr], s.Expr]) -> tuple[s.Expr, ...] | None:
    """The changed parts; None if all are what they were."""
    changed = tuple(map(change, parts))
    return None if all(new is old for new, old in zip(changed, parts, strict=True)) else changed
