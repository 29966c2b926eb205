"""A model with other mixtures; its mixtures alone; and its layers without them, to run with any."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from torch import Tensor, fx, nn

from moec.compiler import model_ops
from moec.compiler.build.model import Shape, build
from moec.compiler.graph import ReferenceRegion, Region
from moec.dsl import spec as m

HOLE_EPS = 1e6
"""A norm with this eps or a greater one stands for a mixture."""

Change = Callable[[m.Call, m.Moe], m.Component]


def mixtures_of(layer: m.Layer) -> tuple[tuple[str, m.Moe], ...]:
    """(path, mixture) of every call of one."""
    return tuple((c.path, c.component) for c in layer.calls() if isinstance(c.component, m.Moe))


def with_mixtures(model: m.ModelSpec, others: Mapping[m.Moe, m.Moe]) -> m.ModelSpec:
    """The model with other mixtures in the place of some."""
    layers = (_changed_layer(layer, lambda _, moe: others.get(moe, moe)) for layer in model.layers)
    return replace(model, layers=tuple(layers))


@cache
def alone(path: str, moe: m.Moe, width: int, shape: Shape) -> ReferenceRegion:
    """The region of the layer `x = mixture(x)`, without balance terms. Rows with equal mixtures share it."""
    call = m.Call(path, replace(moe, balance=()), m.Var("x"))
    layer = m.Layer((m.Equation("x", False, call),))
    model = m.ModelSpec("alone", vocab=1, width=width, context=1, layers=(layer,), head=m.Head(m.Var("x")))
    return regions(model, shape)[1]


def regions(model: m.ModelSpec, shape: Shape) -> list[ReferenceRegion]:
    """Of the embedding, the layers in order, the logits."""
    reference = build(model, shape, head="logits")
    return [reference.kinds[kind] for _, kind in reference.chain]


def with_holes(model: m.ModelSpec) -> m.ModelSpec:
    """The model with a norm in the place of every mixture; its eps says which of its layer's it is."""
    return replace(model, layers=tuple(map(_with_holes, model.layers)))


def _with_holes(layer: m.Layer) -> m.Layer:
    paths = [path for path, _ in mixtures_of(layer)]
    return _changed_layer(layer, lambda call, _: m.RmsNorm(HOLE_EPS + paths.index(call.path), "none"))


def _changed_layer(layer: m.Layer, change: Change) -> m.Layer:
    equations = (replace(e, value=_changed(e.value, change)) for e in layer.equations)
    return replace(layer, equations=tuple(equations))


def _changed(expression: m.Expression, change: Change) -> m.Expression:
    match expression:
        case m.Var():
            return expression
        case m.Sum(terms):
            return replace(expression, terms=tuple(_changed(term, change) for term in terms))
        case m.Scaled(value=value):
            return replace(expression, value=_changed(value, change))
        case m.Call(component=component, argument=argument):
            new = change(expression, component) if isinstance(component, m.Moe) else component
            return replace(expression, component=new, argument=_changed(argument, change))


# --- running ---


class _Filled(fx.Interpreter):
    """Runs a graph with holes."""

    def __init__(self, graph: fx.Graph, fills: Sequence[Callable[[Tensor], Tensor]]) -> None:
        super().__init__(nn.Module(), garbage_collect_values=False, graph=graph)
        self.fills = fills

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if target is model_ops.rms_norm and args[2] >= HOLE_EPS:
            return self.fills[int(args[2] - HOLE_EPS)](args[0])
        return super().call_function(target, args, kwargs)


def run_filled(
    region: Region,
    parameters: Mapping[str, Tensor],
    values: Mapping[str, Tensor],
    fills: Sequence[Callable[[Tensor], Tensor]],
) -> dict[str, Tensor]:
    """What the region computes by name, with `fills`, (T, D) -> (T, D), in its holes."""
    args = [parameters[p.path] for p in region.parameters] + [values[name] for name in region.inputs]
    return dict(zip(region.outputs, _Filled(region.graph, fills).run(*args), strict=True))
