"""Which layout an operation gives its result in. One table, read by `place` and by the verifier after it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from moec.compiler import exchange_ops, model_ops
from moec.compiler.graph import PartitionedRegion, layout, parameter_path
from moec.compiler.layout import AtExperts, Batch, Layout, Partial, Whole
from moec.runtime.abi.mesh import Mesh

DATA = "data"
EXPERT = "expert"

_PORTS: dict[str, Layout] = {
    "tokens": Batch(),
    "targets": Batch(),
    "sequences": Batch(),
    "first": Batch(),
    "documents": Batch(),
    "noise": Whole(),
    "x": Batch(),
    "choices": Partial(DATA),
    "probabilities": Partial(DATA),
    "aux": Partial(DATA),
    "sequence_aux": Partial(DATA),
    "z": Partial(DATA),
    "micro_tokens": Whole(),
    "batch_tokens": Whole(),
    "loss_tokens": Whole(),
    "objective": Partial(DATA),
    "loss": Partial(DATA),
    "aux_loss": Partial(DATA),
    "sequence_aux_loss": Partial(DATA),
    "z_loss": Partial(DATA),
    "logits": Batch(),
}

_PUBLISHED: dict[str, Layout] = {"load": Partial(DATA), "dropped": Partial(DATA), "entropy": Partial(DATA)}
"""What every MoE shows of its router, by the last part of the name."""

_SUMMANDS: frozenset[Callable[..., object]] = frozenset(
    {
        torch.zeros,  # a statistic before the first layer: nothing yet, on every rank
        model_ops.expert_load,
        model_ops.dropped,
        model_ops.entropy_sum,
        model_ops.probability_sum,
        model_ops.square_logsumexp_sum,
        model_ops.accumulate,
        model_ops.balance_loss,
        model_ops.sequence_balance_loss,
        model_ops.per_token,
        model_ops.weighted_sum,
        model_ops.cross_entropy,
        model_ops.chunked_cross_entropy,
    }
)
"""What these compute from one rank's tokens are summands of the value for all tokens."""

_PADDING = (model_ops.pad_experts, model_ops.padded_counts, model_ops.unpad_experts)
"""Rows are filled up at their experts."""

_LIKE_FIRST: frozenset[Callable[..., object]] = frozenset(
    {
        exchange_ops.rows_by_member,
        exchange_ops.rows_by_expert,
        exchange_ops.total,
        exchange_ops.group_received,
        exchange_ops.permute_rows,
    }
)
"""These work on what one exchange sends or receives, and leave it where it is."""


def port(name: str) -> Layout:
    """The layout of an input or output of a region: what one region gives is what the next one takes."""
    return _PORTS[name] if name in _PORTS else _PUBLISHED[name.rpartition(".")[2]]


def result(node: fx.Node, region: PartitionedRegion, mesh: Mesh) -> Layout | None:
    """The layout of what `node` computes from arguments in their layouts; None if they do not go together."""
    if node.op == "placeholder":
        return _placeholder(node, region, mesh)
    if node.target is exchange_ops.redistribute:
        return layout(node)
    if node.target in _SUMMANDS:
        return Partial(DATA)
    if node.target in (model_ops.dispatch, model_ops.combine):
        return Batch()
    if node.target in _PADDING:
        return AtExperts(EXPERT) if mesh.expert > 1 else Batch()
    if node.target in (model_ops.expert_mm, model_ops.expert_add):
        weight = layout(_argument(node, 1))
        return weight if isinstance(weight, AtExperts) else Batch()
    if node.target in _LIKE_FIRST:
        return layout(_argument(node, 0))
    if node.target in (exchange_ops.all_to_all, exchange_ops.exchange_counts, exchange_ops.all_reduce):
        return _moved(layout(_argument(node, 0)), node)
    return _joined({layout(argument) for argument in node.all_input_nodes})


def _placeholder(node: fx.Node, region: PartitionedRegion, mesh: Mesh) -> Layout:
    path = parameter_path(node)
    if path is None:
        return port(region.inputs[region.input_nodes().index(node)])
    experts = next(p.experts for p in region.parameters if p.path == path)
    return AtExperts(EXPERT) if experts is not None and mesh.expert > 1 else Whole()


def _moved(source: Layout, collective: fx.Node) -> Layout | None:
    """A collective takes a value from one layout into another."""
    axis = str(collective.args[-1])
    match source:
        case Partial(over) if collective.target is exchange_ops.all_reduce and over == axis:
            return Whole()
        case Batch() if collective.target is not exchange_ops.all_reduce:
            return AtExperts(axis)
        case AtExperts(at) if collective.target is exchange_ops.all_to_all and at == axis:
            return Batch()
    return None


def _joined(found: set[Layout]) -> Layout | None:
    """What is whole goes with everything; nothing else goes with another layout."""
    local = found - {Whole()}
    if len(local) > 1:
        return None
    return local.pop() if local else Whole()


def _argument(node: fx.Node, position: int) -> fx.Node:
    argument = node.args[position]
    assert isinstance(argument, fx.Node)
    return argument
