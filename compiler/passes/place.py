"""place: ReferenceRegion -> PartitionedRegion. Give every value its layout; cut the experts.

    %weights = placeholder (8, F, D)                  %weights = placeholder (4, F, D)    at experts(expert)
    %rows = dispatch(...)                      ->     %rows = dispatch(...)               batch
    %gate = expert_mm(%rows, %weights, ...)           %gate = expert_mm(...)              at experts(expert)

A lowering: shapes of expert parameters become this rank's, nothing else changes, and no collective is there
yet, so edges may join values of two layouts. `insert_redistribution` looks at exactly those.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx

from moec.compiler import model_ops
from moec.compiler.errors import InternalCompilerError
from moec.compiler.graph import (
    PARAMETER,
    VAL,
    PartitionedRegion,
    ReferenceRegion,
    layout,
    parameter_path,
    set_layout,
)
from moec.compiler.layout import AtExperts, Batch, Layout, Partial, Whole
from moec.runtime.abi.mesh import Mesh

DATA = "data"
EXPERT = "expert"

_INPUTS: dict[str, Layout] = {
    "tokens": Batch(),
    "targets": Batch(),
    "sequences": Batch(),
    "x": Batch(),
    "choices": Partial(DATA),
    "probabilities": Partial(DATA),
    "aux": Partial(DATA),
    "z": Partial(DATA),
    "micro_tokens": Whole(),
    "batch_tokens": Whole(),
    "loss_tokens": Whole(),
}

_SUMMANDS: frozenset[Callable[..., object]] = frozenset(
    {
        torch.zeros,  # a statistic before the first layer: nothing yet, on every rank
        model_ops.expert_load,
        model_ops.probability_sum,
        model_ops.square_logsumexp_sum,
        model_ops.accumulate,
        model_ops.balance_loss,
        model_ops.per_token,
        model_ops.weighted_sum,
        model_ops.cross_entropy,
    }
)
"""What these compute from one rank's tokens are summands of the value for all tokens."""


def place(region: ReferenceRegion, mesh: Mesh) -> PartitionedRegion:
    """The same graph for one rank of `mesh`."""
    graph = fx.Graph()
    graph.output(graph.graph_copy(region.graph, {}))
    placed = PartitionedRegion(
        kind=region.kind,
        graph=graph,
        parameters=region.parameters,
        inputs=region.inputs,
        outputs=region.outputs,
        differentiable=region.differentiable,
        fake=region.fake,
        origin=region.origin,
    )
    _copy_meta(region, placed)
    _cut_experts(placed, mesh)
    for node in placed.nodes():
        if node.op != "output":
            set_layout(node, _layout_of(node, placed, mesh))
    return placed


def _copy_meta(source: ReferenceRegion, target: PartitionedRegion) -> None:
    for old, new in zip(source.nodes(), target.nodes(), strict=True):
        new.meta = dict(old.meta)


def _cut_experts(region: PartitionedRegion, mesh: Mesh) -> None:
    """Expert parameters and counts: e experts a rank, rounded up, so that all ranks have one program."""
    by_path = {p.path: p for p in region.parameters}
    for node in region.parameter_nodes():
        parameter = by_path[node.meta[PARAMETER]]
        if parameter.experts is not None:
            local = -(-parameter.experts // mesh.expert)
            with region.fake:
                node.meta[VAL] = torch.empty((local, *parameter.shape), dtype=node.meta[VAL].dtype)
    for node in region.nodes():
        if node.target is model_ops.group_by_expert:
            chosen, experts = node.args
            assert isinstance(experts, int)
            node.args = (chosen, -(-experts // mesh.expert) * mesh.expert)


def _layout_of(node: fx.Node, region: PartitionedRegion, mesh: Mesh) -> Layout:
    if node.op == "placeholder":
        return _placeholder_layout(node, region, mesh)
    if node.target in _SUMMANDS:
        return Partial(DATA)
    found = {layout(argument) for argument in node.all_input_nodes}
    if node.target is model_ops.expert_mm:
        weight = node.args[1]
        assert isinstance(weight, fx.Node)
        return layout(weight) if isinstance(layout(weight), AtExperts) else Batch()
    if node.target in (model_ops.combine, model_ops.dispatch) or Batch() in found:
        return Batch()
    if len(found) == 1:
        return found.pop()
    raise InternalCompilerError(f"{region.kind}: {node.format_node()} joins {', '.join(map(str, found))}")


def _placeholder_layout(node: fx.Node, region: PartitionedRegion, mesh: Mesh) -> Layout:
    path = parameter_path(node)
    if path is None:
        name = region.inputs[region.input_nodes().index(node)]
        return _INPUTS[name]
    experts = next(p.experts for p in region.parameters if p.path == path)
    return AtExperts(EXPERT) if experts is not None and mesh.expert > 1 else Whole()
