"""Which layout an operation gives its result in. One table, read by `place` and by the verifier after it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import fx

from moec.compiler import exchange_ops, model_ops
from moec.compiler.graph import PartitionedRegion, layout, parameter_path
from moec.compiler.layout import AtExperts, Batch, Gathered, Layout, Partial, Shuffled, Whole
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
    "shuffle": Whole(),
    "x": Batch(),
    "choices": Partial(DATA),
    "probabilities": Partial(DATA),
    "aux": Partial(DATA),
    "sequence_aux": Partial(DATA),
    "z": Partial(DATA),
    "micro_tokens": Whole(),
    "seen_tokens": Whole(),
    "batch_tokens": Whole(),
    "loss_tokens": Whole(),
    "objective": Partial(DATA),
    "loss": Partial(DATA),
    "aux_loss": Partial(DATA),
    "sequence_aux_loss": Partial(DATA),
    "z_loss": Partial(DATA),
    "logits": Batch(),
}

_PUBLISHED: dict[str, Layout] = {
    "load": Partial(DATA),
    "dropped": Partial(DATA),
    "entropy": Partial(DATA),
    **dict.fromkeys(("counted", "earlier"), Partial(DATA)),
}
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
        exchange_ops.own_order,
    }
)
"""These work on what one exchange sends or receives, and leave it where it is."""


_AS_ORDER: dict[object, int] = {model_ops.dispatch: 1, model_ops.weigh_rows: 2, model_ops.combine: 2}
"""They work on rows of the tokens whose order is their argument at this position."""

COLLECTIVES = (
    exchange_ops.all_reduce,
    exchange_ops.all_to_all,
    exchange_ops.exchange_counts,
    exchange_ops.gather_rows,
    exchange_ops.scatter_sums,
    exchange_ops.shuffle,
    exchange_ops.unshuffle,
)
"""What moves data, over the axis that is the last argument."""


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
    if node.target in _AS_ORDER:
        return layout(_argument(node, _AS_ORDER[node.target]))
    if node.target is exchange_ops.combine_own:
        return _summand(layout(_argument(node, 2)))
    if node.target in (exchange_ops.dispatch_own, exchange_ops.weigh_own, exchange_ops.own_counts):
        return AtExperts(EXPERT)
    if node.target in _PADDING:
        return AtExperts(EXPERT) if mesh.expert > 1 else Batch()
    if node.target in (model_ops.expert_mm, model_ops.expert_add):
        weight = layout(_argument(node, 1))
        return weight if isinstance(weight, AtExperts) else Batch()
    if node.target in _LIKE_FIRST:
        return layout(_argument(node, 0))
    if node.target in COLLECTIVES:
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
    axis, target = str(collective.args[-1]), collective.target
    match source:
        case Partial(over) if target is exchange_ops.all_reduce and over == axis:
            return Whole()
        case Batch() if target is exchange_ops.shuffle:
            return Shuffled(axis)
        case Shuffled(over) if target is exchange_ops.unshuffle and over == axis:
            return Batch()
        case Batch() | Shuffled() if target is exchange_ops.gather_rows:
            return Gathered(axis, shuffled=isinstance(source, Shuffled))
        case Gathered(over, shuffled, True) if target is exchange_ops.scatter_sums and over == axis:
            return Shuffled(axis) if shuffled else Batch()
        case Batch() | Shuffled() if target in (exchange_ops.all_to_all, exchange_ops.exchange_counts):
            return AtExperts(axis)
        case AtExperts(at) if target is exchange_ops.all_to_all and at == axis:
            return layout(_argument(collective, 2))  # of what was sent
    return None


def _summand(of: Layout) -> Layout | None:
    return replace(of, summand=True) if isinstance(of, Gathered) else None


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
