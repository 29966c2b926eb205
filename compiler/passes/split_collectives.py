"""split_collectives: every collective becomes a start half and a wait half.

    %y = all_to_all(%x, ...)      ->      %h = all_to_all_start(%x, ...)
                                          %y = wait(%h)

The halves stay together here; what may lie between them is for the schedule to decide.
"""

from __future__ import annotations

import torch
from torch import fx

from moec.runtime.abi import machine_ops

STARTS = {
    torch.ops.moec.all_to_all.default: machine_ops.all_to_all_start,
    torch.ops.moec.all_reduce.default: machine_ops.all_reduce_start,
    torch.ops.moec.shard_gather.default: machine_ops.shard_gather_start,
    torch.ops.moec.reduce_scatter.default: machine_ops.reduce_scatter_start,
}


def split_collectives(graph: fx.Graph) -> None:
    """Edit `graph` in place."""
    for node in list(graph.nodes):
        if node.target not in STARTS:
            continue
        with graph.inserting_before(node):
            handle = graph.call_function(STARTS[node.target], node.args, node.kwargs)
            done = graph.call_function(machine_ops.wait, (handle,))
        handle.meta = {key: found for key, found in node.meta.items() if key != "val"}
        done.meta = dict(node.meta)
        node.replace_all_uses_with(done)
        graph.erase_node(node)
