"""What the builders of a layer's components share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from moec.compiler import model_ops
from moec.compiler.graph import Builder
from moec.dsl.spec import Origin


@dataclass
class LayerScope:
    """What an expression can see: parameters, values of the chain, facts of the batch; and what it adds."""

    builder: Builder
    parameters: dict[str, fx.Node]
    sequence: int
    chain: dict[str, fx.Node]
    facts: dict[str, fx.Node]
    loads: dict[str, tuple[fx.Node, int]] = field(default_factory=dict)  # output name -> (node, experts)

    def call(self, function: Callable[..., Any], *args: Any, at: Origin, **kwargs: Any) -> fx.Node:
        """Add a node."""
        return self.builder.call(function, *args, at=at, **kwargs)

    def linear(self, x: fx.Node, path: str, at: Origin) -> fx.Node:
        """x times the transposed matrix `path`, plus `path`_bias where there is one."""
        bias = self.parameters.get(f"{path}_bias")
        return self.call(model_ops.linear, x, self.parameters[path], *([bias] if bias else []), at=at)
