"""A reference region under construction, and what goes into one beside parameters.

Batch facts are scalars, int64: `sequences` (real sequences of this rank's micro-batch), `micro_tokens` and
`batch_tokens` (real tokens of the global micro-batch and batch), `loss_tokens` (loss-bearing ones of the
batch), `first` (the position in the run of this micro-batch's first sequence), `noise` (the key of a layer's
random numbers). `tokens` (B, S) int64 are the ids, for routers that look at them; `documents` (B, S) int64
say of every token where in its sequence its document starts, where documents are separate.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx

from moec.compiler.graph import Builder, ReferenceRegion, fake_mode, value
from moec.dsl.parameters import Parameter
from moec.dsl.spec import (
    AuxLoss,
    Gqa,
    Hash,
    Jitter,
    Layer,
    Mla,
    ModelSpec,
    Moe,
    Origin,
    RoundRobin,
    RouterStage,
)
from moec.runtime.abi.dtypes import wide

from .scope import LayerScope
from .statistics import Statistics


@dataclass(frozen=True)
class Shape:
    """The static shape of one rank's micro-batch, and the dtypes it is computed in."""

    sequences: int  # capacity: a short batch leaves some as padding
    sequence: int
    dtype: torch.dtype  # of activations, and of matrices
    documents: bool = False  # of which none sees another: the batch says where they start

    router: torch.dtype | None = None  # of a router's matrix, and its product with tokens; None: wide
    loss_chunk: int | None = None  # tokens that have logits at a time; None: all

    @property
    def wide(self) -> torch.dtype:
        """Of vectors, scores, statistics and losses: float32 where activations are halves."""
        return wide(self.dtype)

    def of(self, parameter: Parameter) -> torch.dtype:
        """The dtype that a parameter is computed with."""
        if not parameter.decays:
            return self.wide
        return self.router or self.wide if parameter.routes else self.dtype

    @property
    def tokens(self) -> int:
        """Padding included."""
        return self.sequences * self.sequence


@dataclass(frozen=True)
class Setting:
    """What all regions of a model are built for."""

    model: ModelSpec
    shape: Shape
    statistics: Statistics
    training: bool  # a loss follows


class RegionBuilder:
    """A region of `parameters`, to which inputs and nodes are added."""

    def __init__(self, kind: str, parameters: tuple[Parameter, ...], setting: Setting, at: Origin) -> None:
        self.kind, self.parameters, self.setting, self.origin = kind, parameters, setting, at
        self.fake = fake_mode()
        self.builder = Builder(fx.Graph(), self.fake)
        self.inputs: list[str] = []
        self.parameter_nodes = {
            p.path: self.builder.placeholder(p.path, p.stored_shape, setting.shape.of(p), p.origin, p.path)
            for p in parameters
        }

    def input(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, at: Origin | None = None
    ) -> fx.Node:
        """A value of the chain, or of the batch."""
        self.inputs.append(name)
        return self.builder.placeholder(name, shape, dtype, at or self.origin)

    def ids(self, name: str) -> fx.Node:
        """`tokens`, `targets` or `documents`, (B, S)."""
        shape = self.setting.shape
        return self.input(name, (shape.sequences, shape.sequence), torch.int64)

    def chain(self) -> dict[str, fx.Node]:
        """What the region before this one gives: the residual stream `x`, and the carried statistics."""
        model, shape = self.setting.model, self.setting.shape
        chain = {"x": self.input("x", (shape.tokens, model.width), shape.dtype, model.origin)}
        for name, (dims, dtype) in self.setting.statistics.carried(shape.wide).items():
            chain[name] = self.input(name, dims, dtype, model.origin)
        return chain

    def facts(self, *names: str) -> dict[str, fx.Node]:
        """Facts of the batch by name."""
        return {
            name: self.ids(name) if name in ("tokens", "documents") else self.input(name, (), torch.int64)
            for name in names
        }

    def scope(self, chain: dict[str, fx.Node], facts: dict[str, fx.Node]) -> LayerScope:
        """What expressions of this region see."""
        setting = self.setting
        return LayerScope(
            builder=self.builder,
            parameters=self.parameter_nodes,
            sequence=setting.shape.sequence,
            context=setting.model.context,
            training=setting.training,
            chain=chain,
            facts=facts,
        )

    def finish(self, outputs: dict[str, fx.Node], differentiable: set[str]) -> ReferenceRegion:
        """The region, with `outputs` in their order; gradients flow through `differentiable` ports."""
        values = tuple(value(node) for node in outputs.values())
        self.builder.graph.output(tuple(outputs.values())).meta["val"] = values
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


def layer_facts(layer: Layer, training: bool, documents: bool = False) -> tuple[str, ...]:
    """The facts that a layer is given: those of every layer, and what it looks at besides."""
    stages = [s for call in layer.calls() if isinstance(call.component, Moe) for s in call.component.router]
    hashed = any(isinstance(stage, Hash) for stage in stages)
    jittered = training and any(isinstance(stage, Jitter) for stage in stages)
    return (
        *("sequences", "micro_tokens", "batch_tokens"),
        *(("seen_tokens",) if any(True for _ in counted_over_batch(layer)) else ()),
        *(("tokens",) if hashed else ()),
        *(("first", "noise") if jittered else ()),
        *(("documents",) if documents and _has_positions(layer, stages) else ()),
    )


def counted_over_batch(layer: Layer) -> Iterator[tuple[str, int]]:
    """(path, experts) of the MoEs whose choices are counted over the micro-batches of a batch so far."""
    for call in layer.calls():
        moe = call.component
        if isinstance(moe, Moe) and any(isinstance(t, AuxLoss) and t.over == "batch" for t in moe.balance):
            yield call.path, moe.routed


def _has_positions(layer: Layer, stages: list[RouterStage]) -> bool:
    """Whether what a layer computes of a token depends on its place, or on the tokens before it."""
    attends = any(isinstance(call.component, Gqa | Mla) for call in layer.calls())
    return attends or any(isinstance(stage, RoundRobin) for stage in stages)
