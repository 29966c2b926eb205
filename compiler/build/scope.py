"""What the builders of a layer's components share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from moec.compiler import model_ops
from moec.compiler.graph import Builder, value
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
    loads: dict[str, tuple[fx.Node, int]] = field(default_factory=dict)  # output name -> (node, numbers)
    counted: dict[str, tuple[fx.Node, int]] = field(default_factory=dict)  # as `loads`, see `earlier`
    means: dict[str, fx.Node] = field(default_factory=dict)  # output name -> summand of a mean over tokens

    def get(self, name: str) -> fx.Node:
        """The value of `x` or of a local, (T, D)."""
        return self.chain["x"] if name == "x" else self.locals[name]

    def set(self, name: str, value: fx.Node) -> None:
        """What `name` means from here on."""
        (self.chain if name == "x" else self.locals)[name] = value

    def positions(self, at: Origin) -> fx.Node | None:
        """The place of every token in its document, (B, S) int64; None where a sequence is one document."""
        if "documents" not in self.facts:
            return None
        if "positions" not in self.facts:
            documents = self.facts["documents"]
            self.facts["positions"] = self.call(model_ops.document_positions, documents, at=at)
        return self.facts["positions"]

    def call(self, function: Callable[..., Any], *args: Any, at: Origin, **kwargs: Any) -> fx.Node:
        """Add a node."""
        return self.builder.call(function, *args, at=at, **kwargs)

    def linear(self, x: fx.Node, path: str, at: Origin) -> fx.Node:
        """x times the transposed matrix `path`, plus `path`_bias if there is one, in the matrix's dtype."""
        names = [name for name in (path, f"{path}_bias") if name in self.parameters]
        dtype = value(self.parameters[path]).dtype
        operands = [self.cast(node, dtype, at) for node in (x, *(self.parameters[name] for name in names))]
        return self.call(model_ops.linear, *operands, at=at)

    def cast(self, x: fx.Node, dtype: torch.dtype, at: Origin) -> fx.Node:
        """x in `dtype`: itself where it is already."""
        return x if value(x).dtype == dtype else self.call(model_ops.cast, x, dtype, at=at)
