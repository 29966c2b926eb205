"""place: ReferenceRegion -> PartitionedRegion. Give every value its layout; cut the experts.

    %weights = placeholder (8, F, D)                  %weights = placeholder (4, F, D)    at experts(expert)
    %rows = dispatch(...)                      ->     %rows = dispatch(...)               batch
    %gate = expert_mm(%rows, %weights, ...)           %gate = expert_mm(...)              at experts(expert)

A lowering: shapes of expert parameters become this rank's, nothing else changes, and no collective is there
yet, so edges may join values of two layouts. `insert_redistribution` looks at exactly those.
"""

from __future__ import annotations

import torch
from torch import fx

from moec.compiler import model_ops
from moec.compiler.errors import InternalCompilerError
from moec.compiler.graph import (
    PARAMETER,
    VAL,
    PartitionedRegion,
    ReferenceRegion,
    set_layout,
)
from moec.runtime.abi.mesh import Mesh

from .results import result


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
            found = result(node, placed, mesh)
            if found is None:
                raise InternalCompilerError(f"{region.kind}: {node.format_node()} joins different layouts")
            set_layout(node, found)
    return placed


def _copy_meta(source: ReferenceRegion, target: PartitionedRegion) -> None:
    for old, new in zip(source.nodes(), target.nodes(), strict=True):
        new.meta = dict(old.meta)


def _cut_experts(region: PartitionedRegion, mesh: Mesh) -> None:
    """Expert parameters and counts: e experts a rank, rounded up, so that all ranks have one program.

    What is not sent to experts does not arrive there: where rows travel, those at experts have no tail. Room
    is for the tokens of all ranks that share the experts.
    """
    by_path = {p.path: p for p in region.parameters}
    for node in region.parameter_nodes():
        parameter = by_path[node.meta[PARAMETER]]
        if parameter.experts is not None:
            local = -(-parameter.experts // mesh.expert)
            with region.fake:
                node.meta[VAL] = torch.empty((local, *parameter.shape), dtype=node.meta[VAL].dtype)
    for node in region.nodes():
        if node.target is model_ops.group_by_expert:
            sent, experts, _ = node.args
            assert isinstance(experts, int)
            node.args = (sent, experts, -(-experts // mesh.expert) * mesh.expert)
        elif node.target is model_ops.expert_mm and mesh.expert > 1:
            node.update_arg(3, False)
        elif node.target in (model_ops.pad_experts, model_ops.unpad_experts):
            node.update_arg(2, _whole(node.args[2]) * mesh.expert)
        elif node.target is model_ops.padded_counts:
            node.update_arg(1, _whole(node.args[1]) * mesh.expert)


def _whole(argument: object) -> int:
    assert isinstance(argument, int)
    return argument
