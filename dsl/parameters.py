"""The parameters of a model: names, shapes, initialisation and counts, derived from its `ModelSpec` alone.

One table serves everyone who needs to know: `moec models` counts it, the checker proves the weight map
against it, the compiler lays it out, the runtime draws it. Names are paths: `layers.3.experts.expert.5.gate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Literal

from moec.dsl.spec import Call, Expression, Gqa, Layer, ModelSpec, Moe, Origin, RmsNorm, SwiGlu, Var

Init = Literal["normal", "ones", "zeros"]


@dataclass(frozen=True)
class Parameter:
    """One tensor of a region, or one per expert.

    `path` is relative to the region. With `experts`, it holds one `{}` for the expert's index, there are
    `experts` of them, each of `shape`, and they are stored stacked as (experts, *shape).
    """

    path: str
    shape: tuple[int, ...]
    init: Init
    origin: Origin
    experts: int | None = None
    active: int | None = None  # of `experts`, how many one token uses

    @property
    def decays(self) -> bool:
        """Weight decay applies to matrices, not to norms and biases."""
        return len(self.shape) > 1

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape it is stored in: experts stacked in front."""
        return self.shape if self.experts is None else (self.experts, *self.shape)

    def names(self, region: str) -> Iterator[str]:
        """Full names, in the order of the stacked dim; `region` is "" or a prefix such as `layers.3`."""
        prefix = f"{region}." if region else ""
        if self.experts is None:
            yield prefix + self.path
        else:
            for expert in range(self.experts):
                yield prefix + self.path.format(expert)


def embed_parameters(model: ModelSpec) -> tuple[Parameter, ...]:
    """The embedding table (vocab, width)."""
    return (Parameter("embed", (model.vocab, model.width), "normal", model.origin),)


def head_parameters(model: ModelSpec) -> tuple[Parameter, ...]:
    """The final norm and the output projection (vocab, width)."""
    logits = Parameter("logits", (model.vocab, model.width), "normal", model.head.origin)
    return (*_expression(model.head.argument, model.width), logits)


def layer_parameters(layer: Layer, width: int) -> tuple[Parameter, ...]:
    """The parameters of one layer, in the order its equations use them."""
    return tuple(p for equation in layer.equations for p in _expression(equation.value, width))


def model_parameters(model: ModelSpec) -> Iterator[tuple[str, Parameter]]:
    """(region prefix, parameter) over the whole model: embedding, layers in order, head."""
    for parameter in embed_parameters(model):
        yield "", parameter
    for index, layer in enumerate(model.layers):
        for parameter in layer_parameters(layer, model.width):
            yield f"layers.{index}", parameter
    for parameter in head_parameters(model):
        yield "", parameter


def count(model: ModelSpec) -> tuple[int, int]:
    """(total, active) parameters; active counts what one token passes through, the embedding included."""
    total = active = 0
    for _, parameter in model_parameters(model):
        size = prod(parameter.shape)
        total += size * (parameter.experts or 1)
        active += size * (parameter.active or 1)
    return total, active


def _expression(expression: Expression, width: int) -> Iterator[Parameter]:
    if isinstance(expression, Var):
        return
    yield from _expression(expression.argument, width)
    yield from _call(expression, width)


def _call(call: Call, width: int) -> Iterator[Parameter]:
    match call.component:
        case RmsNorm():
            yield Parameter(call.path, (width,), "ones", call.origin)
        case Gqa() as gqa:
            yield from _under(call, _gqa(gqa, width))
        case SwiGlu() as ffn:
            yield from _under(call, _swiglu(ffn, width))
        case Moe() as moe:
            yield from _under(call, _moe(moe, width))


def _under(call: Call, parameters: Iterator[Parameter]) -> Iterator[Parameter]:
    for parameter in parameters:
        yield replace(parameter, path=f"{call.path}.{parameter.path}")


def _gqa(gqa: Gqa, width: int) -> Iterator[Parameter]:
    q, kv = gqa.heads * gqa.head_dim, gqa.kv_heads * gqa.head_dim
    for name, rows in (("q", q), ("k", kv), ("v", kv)):
        yield Parameter(name, (rows, width), "normal", gqa.origin)
        if gqa.qkv_bias:
            yield Parameter(f"{name}_bias", (rows,), "zeros", gqa.origin)
    if gqa.qk_norm is not None:
        per_head = gqa.qk_norm.over == "head"
        yield Parameter("q_norm", (gqa.head_dim if per_head else q,), "ones", gqa.qk_norm.origin)
        yield Parameter("k_norm", (gqa.head_dim if per_head else kv,), "ones", gqa.qk_norm.origin)
    yield Parameter("o", (width, q), "normal", gqa.origin)


def _swiglu(ffn: SwiGlu, width: int) -> Iterator[Parameter]:
    yield Parameter("gate", (ffn.width, width), "normal", ffn.origin)
    yield Parameter("up", (ffn.width, width), "normal", ffn.origin)
    yield Parameter("down", (width, ffn.width), "normal", ffn.origin)


def _moe(moe: Moe, width: int) -> Iterator[Parameter]:
    yield Parameter("router", (moe.experts, width), "normal", moe.origin)
    for parameter in _swiglu(moe.expert, width):
        path = f"expert.{{}}.{parameter.path}"
        yield replace(parameter, path=path, experts=moe.experts, active=moe.top_k)
    if moe.shared is not None:
        for parameter in _swiglu(moe.shared.ffn, width):
            yield replace(parameter, path=f"shared.{parameter.path}")
        if moe.shared.gate:
            yield Parameter("shared_gate", (1, width), "normal", moe.shared.origin)
