"""How much memory is held at once while a graph runs in its order, as an executor lets values go."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TypeVar

from torch import fx

from moec.runtime.abi import machine_ops

from .sizes import Sizes, tensors

K = TypeVar("K", bound=Hashable)
"""An identity of a piece of memory."""


def peak(graph: fx.Graph, held: Mapping[fx.Node, Mapping[K, int]]) -> int:
    """The most that is held at any node; what a node holds, it holds until the last that uses it."""
    now = most = 0
    holders: dict[K, int] = {}
    ends = _ends(graph, held)
    for node in graph.nodes:
        for key, size in held.get(node, {}).items():
            now += 0 if holders.get(key) else size
            holders[key] = holders.get(key, 0) + 1
        most = max(most, now)
        for ended in ends.get(node, ()):
            for key, size in held[ended].items():
                holders[key] -= 1
                now -= 0 if holders[key] else size
    return most


def _ends(graph: fx.Graph, held: Mapping[fx.Node, object]) -> dict[fx.Node, list[fx.Node]]:
    """Node -> those whose last use it is; a node that nothing uses ends with itself."""
    place = {node: index for index, node in enumerate(graph.nodes)}
    found: dict[fx.Node, list[fx.Node]] = {}
    for node in held:
        last = max((*node.users, node), key=lambda user: place[user])
        found.setdefault(last, []).append(node)
    return found


def computed_bytes(graph: fx.Graph, sizes: Sizes) -> int:
    """The most that forward or backward of a region computes and holds at a time, beside what it was given.

    Its results count; what a kernel needs while it runs does not.
    """
    given = {key for n in graph.nodes if _is_given(n) for key in sizes.pieces(n)}
    return peak(graph, {n: _computed(n, given, sizes) for n in graph.nodes if n.op == "call_function"})


def _is_given(node: fx.Node) -> bool:
    return node.op == "placeholder" or node.target is machine_ops.parameter


def _computed(node: fx.Node, given: set[int], sizes: Sizes) -> dict[Hashable, int]:
    if node.target is machine_ops.pack:
        gradients, numel = node.args
        assert isinstance(gradients, list | tuple)
        assert isinstance(gradients[0], fx.Node)
        assert isinstance(numel, int)
        return {node: numel * next(tensors(gradients[0])).dtype.itemsize}
    return {key: size for key, size in sizes.pieces(node).items() if key not in given}
