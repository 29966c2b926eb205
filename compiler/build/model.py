"""Build: `ModelSpec` -> reference graphs, one per distinct kind of region.

The chain, with the statistics that a model with balance losses carries from layer to layer:

    embed:  tokens                                  -> x, (carried statistics, zero)
    layer:  x, carried, batch facts                 -> x, carried, load of every MoE
    head:   x, carried, targets, batch facts        -> objective, loss, aux_loss, z_loss
    logits: x                                       -> logits           (instead of head, to read a model out)

Batch facts are scalars, int64: `sequences` (real sequences of this rank's micro-batch), `micro_tokens` and
`batch_tokens` (real tokens of the global micro-batch and batch), `loss_tokens` (loss-bearing ones of the
batch).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from moec.compiler import model_ops
from moec.compiler.graph import Builder, ReferenceRegion, fake_mode, value
from moec.dsl.parameters import Parameter, embed_parameters, head_parameters, layer_parameters
from moec.dsl.spec import Layer, ModelSpec, Origin

from .expressions import evaluate
from .scope import LayerScope
from .statistics import CARRIED_DIFFERENTIABLE, Statistics, statistics_of


@dataclass(frozen=True)
class Shape:
    """The static shape of one rank's micro-batch, and the dtype it is computed in."""

    sequences: int  # capacity: a short batch leaves some as padding
    sequence: int
    dtype: torch.dtype

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.sequences * self.sequence


@dataclass(frozen=True)
class ReferenceModel:
    """Region kinds, and for every instance in the chain its kind.

    Instances are `embed`, `layers.<i>`, `head`.
    """

    kinds: dict[str, ReferenceRegion]
    chain: tuple[tuple[str, str], ...]
    loads: dict[str, tuple[tuple[str, int], ...]]  # layer kind -> (output name, experts) of its MoEs
    statistics: Statistics
    shape: Shape


def build(model: ModelSpec, shape: Shape, head: str = "head") -> ReferenceModel:
    """The reference graphs of a model; `head` is "head" (loss) or "logits"."""
    statistics = statistics_of(model)
    kinds: dict[str, ReferenceRegion] = {"embed": _embed(model, shape, statistics)}
    loads: dict[str, tuple[tuple[str, int], ...]] = {}
    chain = [("embed", "embed")]
    names: dict[Layer, str] = {}
    for index, layer in enumerate(model.layers):
        if layer not in names:
            kind = names[layer] = f"layer_{len(names)}"
            kinds[kind], loads[kind] = _layer(kind, layer, model, shape, statistics)
        chain.append((f"layers.{index}", names[layer]))
    make_head = {"head": _head, "logits": _logits}[head]
    kinds[head] = make_head(model, shape, statistics)
    return ReferenceModel(kinds, (*chain, (head, head)), loads, statistics, shape)


class _Region:
    """A region under construction."""

    def __init__(self, kind: str, parameters: tuple[Parameter, ...], dtype: torch.dtype, at: Origin) -> None:
        self.kind, self.parameters, self.origin = kind, parameters, at
        self.fake = fake_mode()
        self.builder = Builder(fx.Graph(), self.fake)
        self.inputs: list[str] = []
        self.parameter_nodes = {
            p.path: self.builder.placeholder(p.path, p.stored_shape, dtype, p.origin, p.path)
            for p in parameters
        }

    def input(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, at: Origin) -> fx.Node:
        self.inputs.append(name)
        return self.builder.placeholder(name, shape, dtype, at)

    def finish(self, outputs: dict[str, fx.Node], differentiable: set[str]) -> ReferenceRegion:
        self.builder.graph.output(tuple(outputs.values())).meta["val"] = tuple(
            value(n) for n in outputs.values()
        )
        return ReferenceRegion(
            kind=self.kind,
            graph=self.builder.graph,
            parameters=self.parameters,
            inputs=tuple(self.inputs),
            outputs=tuple(outputs),
            differentiable=frozenset(differentiable),
            fake=self.fake,
            origin=self.origin,
        )


def _embed(model: ModelSpec, shape: Shape, statistics: Statistics) -> ReferenceRegion:
    region = _Region("embed", embed_parameters(model), shape.dtype, model.origin)
    tokens = region.input("tokens", (shape.sequences, shape.sequence), torch.int64, model.origin)
    x = region.builder.call(model_ops.embed, tokens, region.parameter_nodes["embed"], at=model.origin)
    return region.finish({"x": x, **statistics.start(region.builder, shape.dtype)}, {"x"})


def _chain_inputs(
    region: _Region, model: ModelSpec, shape: Shape, statistics: Statistics
) -> dict[str, fx.Node]:
    chain = {"x": region.input("x", (shape.tokens, model.width), shape.dtype, model.origin)}
    for name, (dims, dtype) in statistics.carried(shape.dtype).items():
        chain[name] = region.input(name, dims, dtype, model.origin)
    return chain


def _facts(region: _Region, names: tuple[str, ...], at: Origin) -> dict[str, fx.Node]:
    return {name: region.input(name, (), torch.int64, at) for name in names}


def _layer(
    kind: str, layer: Layer, model: ModelSpec, shape: Shape, statistics: Statistics
) -> tuple[ReferenceRegion, tuple[tuple[str, int], ...]]:
    region = _Region(kind, layer_parameters(layer, model.width), shape.dtype, layer.origin)
    chain = _chain_inputs(region, model, shape, statistics)
    facts = _facts(region, ("sequences", "micro_tokens", "batch_tokens"), layer.origin)
    scope = LayerScope(region.builder, region.parameter_nodes, shape.sequence, chain, facts)
    for equation in layer.equations:
        result = evaluate(equation.value, scope)
        if equation.add:
            result = region.builder.call(model_ops.add, chain[equation.target], result, at=equation.origin)
        chain[equation.target] = result
    outputs = {**chain, **{name: node for name, (node, _) in scope.loads.items()}}
    loads = tuple((name, experts) for name, (_, experts) in scope.loads.items())
    return region.finish(outputs, {"x", *(CARRIED_DIFFERENTIABLE & chain.keys())}), loads


def _head(model: ModelSpec, shape: Shape, statistics: Statistics) -> ReferenceRegion:
    region = _Region("head", head_parameters(model), shape.dtype, model.head.origin)
    chain = _chain_inputs(region, model, shape, statistics)
    at = model.head.origin
    targets = region.input("targets", (shape.sequences, shape.sequence), torch.int64, at)
    facts = _facts(region, ("micro_tokens", "batch_tokens", "loss_tokens"), at)
    logits = _project(region, model, chain, shape)
    loss = region.builder.call(model_ops.cross_entropy, logits, targets, facts["loss_tokens"], at=at)
    outputs = statistics.finish(region.builder, loss, chain, facts, at)
    return region.finish(outputs, {"x", "objective", *(CARRIED_DIFFERENTIABLE & chain.keys())})


def _logits(model: ModelSpec, shape: Shape, statistics: Statistics) -> ReferenceRegion:
    region = _Region("logits", head_parameters(model), shape.dtype, model.head.origin)
    chain = _chain_inputs(region, model, shape, statistics)
    return region.finish({"logits": _project(region, model, chain, shape)}, {"x", "logits"})


def _project(region: _Region, model: ModelSpec, chain: dict[str, fx.Node], shape: Shape) -> fx.Node:
    scope = LayerScope(region.builder, region.parameter_nodes, shape.sequence, chain, {})
    normed = evaluate(model.head.argument, scope)
    return region.builder.call(
        model_ops.linear, normed, region.parameter_nodes["logits"], at=model.head.origin
    )
