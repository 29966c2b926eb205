"""Adding nodes to a schedule graph, each with the `.moe` line it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from moec.compiler.graph import ORIGIN
from moec.dsl.spec import NOWHERE, Origin
from moec.runtime.abi import machine_ops


class Nodes:
    """A graph under construction; `at` is the line that new nodes are for."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.at: Origin = NOWHERE

    def placeholder(self, name: str) -> fx.Node:
        """A value from outside, under an identifier made of `name`."""
        return self.graph.placeholder(name.replace(".", "_").replace("/", "_"))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """One instruction."""
        node = self.graph.call_function(function, args, kwargs)
        node.meta[ORIGIN] = self.at
        return node

    def collective(self, start: Callable[..., Any], *args: Any) -> fx.Node:
        """A collective, started and waited for at once."""
        return self.call(machine_ops.wait, self.call(start, *args))

    def run(self, program: str, arguments: Sequence[fx.Node], results: int) -> list[fx.Node]:
        """Another program, and its first `results` results."""
        result = self.call(machine_ops.call, program, list(arguments))
        return [self.call(machine_ops.getitem, result, i) for i in range(results)]
