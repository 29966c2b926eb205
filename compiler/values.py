"""The fake values of a graph, computed anew after an edit changed what shapes depend on."""

from __future__ import annotations

from torch import fx

from .graph import VAL, PartitionedRegion, value


def compute_values(region: PartitionedRegion, before: fx.Node | None = None) -> None:
    """Edit the values of `region` in place, of all nodes or of those `before` one."""
    for node in region.nodes():
        if node is before:
            return
        if node.op == "call_function":
            with region.fake:
                args, kwargs = fx.map_arg((node.args, node.kwargs), value)
                node.meta[VAL] = node.target(*args, **kwargs)  # type: ignore[operator]
    output = region.graph.output_node()
    output.meta[VAL] = tuple(value(node) for node in region.output_nodes())
