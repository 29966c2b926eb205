"""Adding nodes to a schedule graph, each with the `.moe` line it is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from moec.compiler.graph import ORIGIN, identifier
from moec.dsl.spec import NOWHERE, Origin
from moec.runtime.abi import machine_ops
from moec.runtime.abi.dtypes import NAMES


class Nodes:
    """A graph under construction; `at` is the line that new nodes are for."""

    def __init__(self, graph: fx.Graph) -> None:
        self.graph = graph
        self.at: Origin = NOWHERE

    def placeholder(self, name: str) -> fx.Node:
        """A value from outside, under an identifier made of `name`."""
        return self.graph.placeholder(identifier(name))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """One instruction."""
        node = self.graph.call_function(function, args, kwargs)
        node.meta[ORIGIN] = self.at
        return node

    def collective(self, name: str, start: Callable[..., Any], *args: Any) -> fx.Node:
        """A collective, started and waited for at once; `name` is what its result is called."""
        return self._named(name, machine_ops.wait, (self.call(start, *args),))

    def view(self, name: str, whole: fx.Node, offset: int, shape: Sequence[int]) -> fx.Node:
        """Part of a flat value, under an identifier made of `name`."""
        return self._named(name, machine_ops.parameter, (whole, offset, tuple(shape)))

    def run(
        self, program: str, arguments: Sequence[fx.Node], results: Sequence[str], name: str = "call"
    ) -> list[fx.Node]:
        """Another program; `results` are what its first results are called, `name` is of the call."""
        result = self._named(name, machine_ops.call, (program, list(arguments)))
        return [self._named(name, machine_ops.getitem, (result, i)) for i, name in enumerate(results)]

    def cast(self, name: str, x: fx.Node, dtype: torch.dtype, to: torch.dtype) -> fx.Node:
        """x, which is of `dtype`, in another; x itself where that is the same. The name ends in `to`."""
        if dtype == to:
            return x
        name = f"{name}.{NAMES[to]}"
        return self._named(name, torch.ops.aten._to_copy.default, (x,), {"dtype": to})

    def _named(
        self,
        name: str,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        keywords: dict[str, Any] | None = None,
    ) -> fx.Node:
        node = self.graph.create_node("call_function", function, args, keywords, name=identifier(name))
        node.meta[ORIGIN] = self.at
        return node
