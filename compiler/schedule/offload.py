"""offload: values that wait for backward do so in host memory.

    %r = call(layer_0.forward, ...)              %r = call(layer_0.forward, ...)
    %saved = getitem(%r, 1)               ->     %saved = getitem(%r, 1)
                                                 %to_host = offload_start(%saved)
    ...layers.1 forward...                       ...layers.1 forward...
                                                 %on_host = wait(%to_host)
    ...                                          ...
                                                 %back = load_start(%on_host)
    ...layers.2 backward...                      ...layers.2 backward...
    ...layers.1 backward...                      ...layers.1 backward...
                                                 %loaded = wait(%back)
    call(layer_0.backward, ..., %saved)          call(layer_0.backward, ..., %loaded)

A copy goes on beside the region that follows. It comes back `horizon` regions ahead of its backward. What the
last `horizon` regions and the one before them keep would be on its way back at once: it stays. So does what
is small, what is no tensor, and what anything but regions uses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from moec.compiler.graph import ORIGIN, identifier, origin
from moec.dsl.spec import Offload
from moec.runtime.abi import machine_ops

Bytes = Callable[[fx.Node], int]
"""How much memory a value takes that a region gives; 0 for what is no tensor."""


def offload(graph: fx.Graph, settings: Offload, bytes_of: Bytes) -> None:
    """Edit the graph of a micro-batch in place."""
    forward, backward = calls(graph, "forward"), calls(graph, "backward")[::-1]
    for position in range(len(forward) - settings.horizon - 1):
        move = _Move(graph, forward, backward, position, position + settings.horizon)
        for node in kept(backward[position], forward[position]):
            if bytes_of(node) >= max(1, settings.least_bytes) and move.suits(node):
                move.apply(node)


def calls(graph: fx.Graph, half: str) -> list[fx.Node]:
    """The calls of regions' forward or backward programs, in order."""
    found = (node for node in graph.nodes if node.target is machine_ops.call)
    return [node for node in found if str(node.args[0]).endswith(f".{half}")]


def kept(backward: fx.Node, forward: fx.Node) -> list[fx.Node]:
    """What regions before or with `forward` gave and `backward` takes."""
    given = [node for node in backward.all_input_nodes if node.target is machine_ops.getitem]
    made = {node for node in given if str(_call(node).args[0]).endswith(".forward")}
    return [node for node in given if node in made and _call(node) <= forward]


def _call(element: fx.Node) -> fx.Node:
    call = element.args[0]
    assert isinstance(call, fx.Node)
    return call


@dataclass(frozen=True)
class _Move:
    """Out after the region at `position` has run forward, back before the one at `ahead` runs backward."""

    graph: fx.Graph
    forward: list[fx.Node]
    backward: list[fx.Node]
    position: int
    ahead: int

    def suits(self, node: fx.Node) -> bool:
        """Whether nothing needs the value between this region's forward and its backward."""
        later = [user for user in node.users if user > self.forward[self.position]]
        return later == [self.backward[self.position]]

    def apply(self, node: fx.Node) -> None:
        """Insert the four halves around what lies between."""
        after = _last_element(self.forward[self.position])
        start = self._insert(after.next, machine_ops.offload_start, node, f"{node.name}.to_host")
        host = self._wait_after(_last_element(self.forward[self.position + 1]), start, f"{node.name}.on_host")
        load = self._insert(self.backward[self.ahead], machine_ops.load_start, host, f"{node.name}.back")
        back = self._insert(self.backward[self.position], machine_ops.wait, load, f"{node.name}.loaded")
        self.backward[self.position].replace_input_with(node, back)

    def _wait_after(self, element: fx.Node, start: fx.Node, name: str) -> fx.Node:
        return self._insert(element.next, machine_ops.wait, start, name)

    def _insert(
        self, before: fx.Node, function: Callable[..., object], argument: fx.Node, name: str
    ) -> fx.Node:
        with self.graph.inserting_before(before):
            node = self.graph.create_node("call_function", function, (argument,), name=identifier(name))
        node.meta[ORIGIN] = origin(argument)
        return node


def _last_element(call: fx.Node) -> fx.Node:
    """The last of the nodes that take a call's results apart; the call itself if there is none."""
    last = call
    while last.next.target is machine_ops.getitem and last.next.args[0] is call:
        last = last.next
    return last
