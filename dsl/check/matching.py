"""Patterns over layers: `match layer { 0..3 => dense, every(2) => sparse, _ => experts }`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.values import Scope, whole, whole_list
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest


@dataclass(frozen=True)
class Chooser:
    """For every layer, the index of the first arm that holds."""

    arms: tuple[int, ...]


def chooser(match: s.Match, layers: int, scope: Scope) -> Chooser:
    """Decide a match for all layers. Every layer must be covered."""
    if match.subject != "layer":
        label = f"`match` looks at `layer`, not at `{match.subject}`"
        raise Mistake(c.UNKNOWN_NAME.at(match.span, label, advice=nearest(match.subject, ["layer"])))
    if len(match.arms) > limits.MATCH_ARMS:
        raise Mistake(c.TOO_LARGE.at(match.span, f"a match has at most {limits.MATCH_ARMS} arms"))
    chosen: list[int | None] = [None] * layers
    for index, arm in enumerate(match.arms):
        for layer in _layers(arm.pattern, layers, scope):
            if chosen[layer] is None:
                chosen[layer] = index
    return Chooser(_covered(match, chosen))


def _covered(match: s.Match, chosen: list[int | None]) -> tuple[int, ...]:
    missing = [layer for layer, arm in enumerate(chosen) if arm is None]
    if missing:
        shown = ", ".join(map(str, missing[:4])) + (", ..." if len(missing) > 4 else "")
        label = f"no arm for layer {shown}" if len(missing) == 1 else f"no arm for layers {shown}"
        raise Mistake(c.LAYER_NOT_COVERED.at(match.span, label, advice="add `_ => ...` as the last arm"))
    return tuple(arm for arm in chosen if arm is not None)


def _layers(pattern: s.Expr, layers: int, scope: Scope) -> Iterable[int]:
    """The layers a pattern holds for."""
    value = scope.resolve(pattern)
    match value:
        case s.Ref(names=("_",)):
            return range(layers)
        case s.Number():
            return (whole(pattern, "layer", layers - 1, 0, scope),) if _within(pattern, layers, scope) else ()
        case s.ListOf():
            return _listed(pattern, value, layers)
        case s.Range():
            return _range(value, layers, scope)
        case s.Invoke(callee=s.Ref()):
            return _every(value, layers, scope)
    label = (
        f"expected a layer, a range, a list, a binding of one, `every(n)` or `_`, found {s.describe(pattern)}"
    )
    raise Mistake(c.BAD_PATTERN.at(pattern.span, label))


def _within(pattern: s.Expr, layers: int, scope: Scope) -> bool:
    layer = whole(pattern, "layer", limits.FFN_WIDTH, 0, scope)
    if layer >= layers:
        label = f"layer {layer} of {layers} layers, which are 0..{layers}"
        raise Mistake(c.LAYER_OUT_OF_RANGE.at(pattern.span, label))
    return True


def _listed(pattern: s.Expr, items: s.ListOf, layers: int) -> tuple[int, ...]:
    listed = whole_list(items, "layers", 0, limits.FFN_WIDTH, limits.LIST_ITEMS)
    beyond = [layer for layer in listed if layer >= layers]
    if beyond:
        label = f"layer {beyond[0]} of {layers} layers, which are 0..{layers}"
        raise Mistake(c.LAYER_OUT_OF_RANGE.at(pattern.span, label))
    return listed


def _range(pattern: s.Range, layers: int, scope: Scope) -> range:
    start = whole(pattern.start, "start", limits.FFN_WIDTH, 0, scope)
    stop = whole(pattern.stop, "stop", limits.FFN_WIDTH, 0, scope)
    if start > stop or stop > layers:
        label = f"{start}..{stop} of {layers} layers; a range has 0 <= start <= stop <= {layers}"
        raise Mistake(c.LAYER_OUT_OF_RANGE.at(pattern.span, label))
    return range(start, stop)


def _every(pattern: s.Invoke, layers: int, scope: Scope) -> range:
    construct, call = callee(pattern, ("pattern",), "a pattern of layers such as `every(2)`")
    bag = DiagnosticBag()
    args = bind(construct, call, bag)
    n = args.read("n", lambda e: whole(e, "n", limits.LAYERS, scope=scope), 1)
    bag.raise_first()
    return range(n - 1, layers, n)
