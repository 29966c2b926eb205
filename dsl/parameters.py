"""The parameters of a model: names, shapes, initialisation and counts, derived from its `ModelSpec` alone.

One table serves everyone who needs to know: `moec models` counts it, the checker proves the weight map
against it, the compiler lays it out, the runtime draws it. Names are paths: `layers.3.experts.expert.5.gate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Literal

from moec.dsl.spec import (
    Attend,
    Call,
    CorrectionBias,
    ExpertScale,
    Expression,
    Ffn,
    Gqa,
    Layer,
    LayerNorm,
    Mla,
    ModelSpec,
    Moe,
    Norm,
    Origin,
    RmsNorm,
    Scaled,
    Sum,
    Var,
)

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
    active: int | None = None  # of `experts`, how many one token uses, on average
    trained: bool = True  # False: it has no gradient; what changes it, if anything, is not the optimizer
    tied: bool = False  # the head uses it, too, as its output projection
    routes: bool = False  # it is the matrix of a router

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
    """The embedding table (vocab, width), and the norm after it if there is one."""
    at = model.embed.origin if model.embed.origin.line else model.origin
    table = Parameter("embed", (model.vocab, model.width), "normal", at, tied=model.head.tied)
    return (table, *(() if model.embed.norm is None else _expression(model.embed.norm, model.width)))


def head_parameters(model: ModelSpec) -> tuple[Parameter, ...]:
    """The final norm, and unless it is tied the output projection (vocab, width), with its bias."""
    head = model.head
    logits = Parameter("logits", (model.vocab, model.width), "normal", head.origin)
    bias = Parameter("logits_bias", (model.vocab,), "zeros", head.origin)
    own = ([] if head.tied else [logits]) + ([bias] if head.bias else [])
    return (*_expression(head.argument, model.width), *own)


def layer_parameters(layer: Layer, width: int) -> tuple[Parameter, ...]:
    """The parameters of one layer, in the order its equations use them."""
    return tuple(p for equation in layer.equations for p in _expression(equation.value, width))


def model_parameters(model: ModelSpec) -> Iterator[tuple[str, Parameter]]:
    """(region prefix, parameter) over the whole model: embedding, layers in order, head."""
    for parameter in embed_parameters(model):
        yield "", parameter
    of_kind: dict[int, tuple[Parameter, ...]] = {}
    for index, layer in enumerate(model.layers):
        if id(layer) not in of_kind:  # layers of one kind are one object
            of_kind[id(layer)] = layer_parameters(layer, model.width)
        for parameter in of_kind[id(layer)]:
            yield f"layers.{index}", parameter
    for parameter in head_parameters(model):
        yield "", parameter


def count(model: ModelSpec) -> tuple[int, int]:
    """(total, active) parameters; active counts what one token passes through, the embedding included.

    A token passes through all weights of a tied embedding and output once. Where there are identity experts,
    it is taken to choose all experts equally often.
    """
    total = active = 0
    for _, parameter in model_parameters(model):
        size = prod(parameter.shape)
        total += size * (parameter.experts or 1)
        active += size * (parameter.active or 1)
    return total, active


def blank_parameters(layer: Layer, width: int) -> Iterator[tuple[Parameter, int]]:
    """What identity experts would have if they had parameters, and the number of the first of them.

    Files may hold tensors for these: `experts.identity.{}.gate`, counted on from the experts that have some.
    """
    for call in layer.calls():
        moe = call.component
        if isinstance(moe, Moe) and moe.identity:
            for parameter in _ffn(moe.expert, moe.latent or width):
                path = f"{call.path}.identity.{{}}.{parameter.path}"
                yield replace(parameter, path=path, experts=moe.identity), moe.experts


def _expression(expression: Expression, width: int) -> Iterator[Parameter]:
    match expression:
        case Var():
            return
        case Sum(terms):
            for term in terms:
                yield from _expression(term, width)
        case Scaled(_, value):
            yield from _expression(value, width)
        case Call(_, _, argument):
            yield from _expression(argument, width)
            yield from call_parameters(expression, width)


def call_parameters(call: Call, width: int) -> Iterator[Parameter]:
    """The parameters of one call, without those of its argument."""
    match call.component:
        case RmsNorm() | LayerNorm() as norm:
            yield from _norm(call.path, norm, width, call.origin)
        case Gqa() as gqa:
            yield from _under(call.path, _gqa(gqa, width))
        case Mla() as mla:
            yield from _under(call.path, _mla(mla, width))
        case Ffn() as ffn:
            yield from _under(call.path, _ffn(ffn, width))
        case Moe() as moe:
            yield from _under(call.path, _moe(moe, width))


def _under(path: str, parameters: Iterator[Parameter]) -> Iterator[Parameter]:
    for parameter in parameters:
        yield replace(parameter, path=f"{path}.{parameter.path}")


def _norm(path: str, norm: Norm, width: int, at: Origin) -> Iterator[Parameter]:
    """`path`, of (width,), as 1 or with `offset` as 0 to start from; `path`_bias."""
    if norm.weight != "none":
        yield Parameter(path, (width,), "ones" if norm.weight == "scale" else "zeros", at)
    if isinstance(norm, LayerNorm) and norm.bias:
        yield Parameter(f"{path}_bias", (width,), "zeros", at)


def _linear(path: str, rows: int, columns: int, bias: bool, origin: Origin) -> Iterator[Parameter]:
    yield Parameter(path, (rows, columns), "normal", origin)
    if bias:
        yield Parameter(f"{path}_bias", (rows,), "zeros", origin)


def _gqa(gqa: Gqa, width: int) -> Iterator[Parameter]:
    q, k = gqa.heads * gqa.head_dim, gqa.kv_heads * gqa.head_dim
    for name, rows in (("q", q), ("k", k), ("v", gqa.kv_heads * gqa.value_dim)):
        yield from _linear(name, rows, width, gqa.qkv_bias, gqa.origin)
    if gqa.qk_norm is not None:
        for name, full in (("q_norm", q), ("k_norm", k)):
            over = gqa.head_dim if gqa.qk_norm.over == "head" else full
            yield from _norm(name, gqa.qk_norm.norm, over, gqa.qk_norm.origin)
    yield from _attend(gqa.attend, gqa.heads, gqa.value_dim, width, gqa.origin)
    yield from _linear("o", width, gqa.heads * gqa.value_dim, gqa.out_bias, gqa.origin)


def _mla(mla: Mla, width: int) -> Iterator[Parameter]:
    at, head = mla.origin, mla.nope_dim + mla.rope_dim
    if mla.q_rank is None:
        yield from _linear("q", mla.heads * head, width, False, at)
    else:
        yield from _linear("q_down", mla.q_rank, width, mla.bias, at)
        yield from _norm("q_norm", mla.norm, mla.q_rank, at)
        yield from _linear("q_up", mla.heads * head, mla.q_rank, False, at)
    yield from _linear("kv_down", mla.kv_rank + mla.rope_dim, width, mla.bias, at)
    yield from _norm("kv_norm", mla.norm, mla.kv_rank, at)
    yield from _linear("kv_up", mla.heads * (mla.nope_dim + mla.value_dim), mla.kv_rank, False, at)
    yield from _attend(mla.attend, mla.heads, mla.value_dim, width, at)
    yield from _linear("o", width, mla.heads * mla.value_dim, mla.bias, at)


def _attend(attend: Attend, heads: int, value_dim: int, width: int, at: Origin) -> Iterator[Parameter]:
    if attend.sinks:
        yield Parameter("sinks", (heads,), "zeros", at)
    if attend.gate is not None:
        rows = heads * (value_dim if attend.gate.per == "element" else 1)
        yield from _linear("gate", rows, width, attend.gate.bias, attend.gate.origin)


def _ffn(ffn: Ffn, width: int) -> Iterator[Parameter]:
    if ffn.gated:
        yield from _linear("gate", ffn.width, width, ffn.bias, ffn.origin)
    yield from _linear("up", ffn.width, width, ffn.bias, ffn.origin)
    yield from _linear("down", width, ffn.width, ffn.bias, ffn.origin)


def _moe(moe: Moe, width: int) -> Iterator[Parameter]:
    for parameter in _linear("router", moe.routed, width, moe.router_bias, moe.origin):
        yield replace(parameter, routes=parameter.decays)
    for stage in moe.router:
        match stage:
            case CorrectionBias():
                yield Parameter("correction", (moe.routed,), "zeros", stage.origin, trained=False)
            case ExpertScale():
                yield Parameter("expert_scale", (moe.routed,), "ones", stage.origin)
    inner = moe.latent or width
    active = max(1, round(Fraction(moe.top_k * moe.experts, moe.routed)))
    if moe.latent is not None:
        yield Parameter("latent_down", (moe.latent, width), "normal", moe.origin)
        if moe.latent_norm is not None:
            yield from _norm("latent_norm", moe.latent_norm, moe.latent, moe.origin)
    for parameter in _ffn(moe.expert, inner):
        path = f"expert.{{}}.{parameter.path}"
        yield replace(parameter, path=path, experts=moe.experts, active=active)
    if moe.expert_norm is not None:  # one weight for all experts
        yield from _norm("expert_norm", moe.expert_norm, inner, moe.origin)
    if moe.latent is not None:
        yield Parameter("latent_up", (width, moe.latent), "normal", moe.origin)
    yield from _shared(moe, width)


def _shared(moe: Moe, width: int) -> Iterator[Parameter]:
    if moe.shared is not None:
        yield from _under("shared", _ffn(moe.shared.ffn, width))
        if moe.shared.gate:
            yield Parameter("shared_gate", (1, width), "normal", moe.shared.origin)
