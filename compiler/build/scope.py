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
    """What an expression can see: parameters, values of the chain, facts of the batch; and what it adds.

    `chain` holds the residual stream `x` and the statistics that go on to the next region, `locals` the names
    that are of this layer alone.
    """

    builder: Builder
    parameters: dict[str, fx.Node]
    sequence: int
    context: int  # of the model, in tokens
    training: bool  # a loss follows; otherwise the model is only read out, and nothing is random
    chain: dict[str, fx.Node]
    facts: dict[str, fx.Node]
    locals: dict[str, fx.Node] = field(default_factory=dict)
    loads: dict[str, tuple[fx.Node, int]] = field(default_factory=dict)  # output name -> (node, experts)

    def get(self, name: str) -> fx.Node:
        """The value of `x` or of a local, (T, D)."""
        return self.chain["x"] if name == "x" else self.locals[name]

    def set(self, name: str, value: fx.Node) -> None:
        """What `name` means from here on."""
        (self.chain if name == "x" else self.locals)[name] = value

    def call(self, function: Callable[..., Any], *args: Any, at: Origin, **kwargs: Any) -> fx.Node:
        """Add a node."""
        return self.builder.call(function, *args, at=at, **kwargs)

    def linear(self, x: fx.Node, path: str, at: Origin) -> fx.Node:
        """x times the transposed matrix `path`, plus `path`_bias where there is one."""
        bias = self.parameters.get(f"{path}_bias")
        return self.call(model_ops.linear, x, self.parameters[path], *([bias] if bias else []), at=at)
