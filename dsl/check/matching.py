"""Patterns over layers: `match layer { 0..3 => dense, every(2) => sparse, _ => experts }`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.values import Scope, whole, whole_list
from moec.dsl.diagnostics import Diagnostic, DiagnosticBag, Mistake, nearest

Holds = range | frozenset[int]


@dataclass(frozen=True)
class Matcher:
    """Decides patterns over `total` layers; a pattern that is bound to a name is worked out once."""

    total: int
    scope: Scope
    _known: dict[int, tuple[s.Expr, Holds]] = field(default_factory=dict, compare=False, repr=False)

    def choose(self, match: s.Match, layers: Sequence[int]) -> dict[int, int]:
        """For each of `layers`, the index of the first arm that holds. All of them must be covered."""
        if match.subject != "layer":
            label = f"`match` looks at `layer`, not at `{match.subject}`"
            raise Mistake(c.UNKNOWN_NAME.at(match.span, label, advice=nearest(match.subject, ["layer"])))
        if len(match.arms) > limits.MATCH_ARMS:
            raise Mistake(c.TOO_LARGE.at(match.span, f"a match has at most {limits.MATCH_ARMS} arms"))
        chosen: dict[int, int] = {}
        left = layers
        for index, arm in enumerate(match.arms):
            holds = self.holds(arm.pattern)
            chosen |= dict.fromkeys((layer for layer in left if layer in holds), index)
            left = [layer for layer in left if layer not in chosen]
        if left:
            raise Mistake(_not_covered(match, left))
        return chosen

    def holds(self, pattern: s.Expr) -> Holds:
        """The layers a pattern holds for. Raises Mistake where it is none."""
        value = self.scope.resolve(pattern)
        if id(value) not in self._known:
            self._known[id(value)] = (value, _layers(pattern, value, self.total, self.scope))
        return self._known[id(value)][1]


def _not_covered(match: s.Match, missing: Sequence[int]) -> Diagnostic:
    shown = ", ".join(map(str, missing[:4])) + (", ..." if len(missing) > 4 else "")
    label = f"no arm for layer {shown}" if len(missing) == 1 else f"no arm for layers {shown}"
    return c.LAYER_NOT_COVERED.at(match.span, label, advice="add `_ => ...` as the last arm")


def _layers(pattern: s.Expr, value: s.Expr, layers: int, scope: Scope) -> Holds:
    match value:
        case s.Ref(names=("_",)):
            return range(layers)
        case s.ListOf():
            return frozenset(_listed(pattern, value, layers))
        case s.Range():
            return _range(value, layers, scope)
        case s.Invoke(callee=s.Ref()) if not s.is_number(value):
            return _every(value, layers, scope)
        case _ if s.is_number(value):
            layer = _one(pattern, layers, scope)
            return range(layer, layer + 1)
    label = (
        f"expected a layer, a range, a list, a binding of one, `every(n)` or `_`, found {s.describe(pattern)}"
    )
    raise Mistake(c.BAD_PATTERN.at(pattern.span, label))


def check_pattern(value: s.Expr, scope: Scope) -> None:
    """What can be said of a binding that is a pattern before the number of layers is known."""
    match value:
        case s.Range():
            whole(value.start, "start", limits.FFN_WIDTH, 0, scope)
            whole(value.stop, "stop", limits.FFN_WIDTH, 0, scope)
        case s.Invoke():
            _every(value, limits.LAYERS, scope)


def is_pattern(expr: s.Expr) -> bool:
    """Whether an expression has a form that only patterns have: a range, or `every(n)`."""
    return isinstance(expr, s.Range) or (isinstance(expr, s.Invoke) and expr.name == "every")


def _one(pattern: s.Expr, layers: int, scope: Scope) -> int:
    layer = whole(pattern, "layer", limits.FFN_WIDTH, 0, scope)
    if layer >= layers:
        label = f"layer {layer} of {layers} layers, which are 0..{layers}"
        raise Mistake(c.LAYER_OUT_OF_RANGE.at(pattern.span, label))
    return layer


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
    offset = args.read("offset", lambda e: whole(e, "offset", limits.LAYERS, 0, scope=scope), n - 1)
    bag.raise_first()
    return range(offset, layers, n)
