"""insert_redistribution: close every edge that joins two layouts, with a mark of the layout that is needed.

    %rows = dispatch(...)                     batch
    %gate = expert_mm(%rows, ...)             at experts(expert)

    %rows = dispatch(...)                     batch
    %rows_1 = redistribute(%rows)             at experts(expert)
    %gate = expert_mm(%rows_1, ...)           at experts(expert)

A value that several operations need in the same layout is redistributed once.
"""

from __future__ import annotations

from torch import fx

from moec.compiler.exchange_ops import redistribute
from moec.compiler.graph import (
    Builder,
    PartitionedRegion,
    common_component,
    component,
    origin,
    set_layout,
)
from moec.compiler.layout import Layout
from moec.runtime.abi.mesh import Mesh

from .requirements import open_edges


def insert_redistribution(region: PartitionedRegion, mesh: Mesh) -> None:
    """Edit `region` in place."""
    builder = Builder(region.graph, region.fake)
    made: dict[tuple[fx.Node, Layout], fx.Node] = {}
    for node in list(region.nodes()):
        if node.op != "call_function":
            continue
        for position, value, needed in list(open_edges(node, mesh)):
            if (value, needed) not in made:
                inside = common_component(component(value), component(node))
                with region.graph.inserting_before(node), builder.within(inside):
                    mark = builder.call(redistribute, value, str(needed), at=origin(node))
                set_layout(mark, needed)
                made[value, needed] = mark
            node.update_arg(position, made[value, needed])
