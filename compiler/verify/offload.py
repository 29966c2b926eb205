"""Rules of values that wait in host memory: what goes there is not used, and comes back for backward."""

from __future__ import annotations

from torch import fx

from moec.runtime.abi import machine_ops

from .report import Problems


def offloads(graph: fx.Graph) -> Problems:
    """What is wrong with the copies in the graph of a micro-batch, each of which is waited for."""
    for node in graph.nodes:
        if node.target is machine_ops.offload_start:
            yield from _left(node)
            yield from _awaited_for(node, machine_ops.load_start, "does not wait in host memory to be loaded")
        elif node.target is machine_ops.load_start:
            yield from _awaited_for(node, machine_ops.call, "is not loaded for one backward")
            if not _is_on_host(node.args[0]):
                yield node, "loads what is not in host memory"


def _left(start: fx.Node) -> Problems:
    """Nothing uses a value after it has left."""
    (source,) = start.all_input_nodes
    late = [user for user in source.users if user > start]
    if late:
        yield start, f"offloads %{source.name}, which %{late[0].name} uses afterwards"


def _awaited_for(start: fx.Node, wanted: object, problem: str) -> Problems:
    users = [user for wait in start.users for user in wait.users]
    backward = wanted is not machine_ops.call or all(str(u.args[0]).endswith(".backward") for u in users)
    if [user.target for user in users] != [wanted] or not backward:
        yield start, problem


def _is_on_host(source: object) -> bool:
    start = source.args[0] if isinstance(source, fx.Node) and source.target is machine_ops.wait else None
    return isinstance(start, fx.Node) and start.target is machine_ops.offload_start
