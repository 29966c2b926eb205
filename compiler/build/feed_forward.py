"""Feed-forward networks that every token passes -> nodes."""

from __future__ import annotations

from torch import fx

from moec.compiler import model_ops
from moec.dsl.spec import Origin

from .scope import LayerScope


def build_swiglu(scope: LayerScope, x: fx.Node, path: str, at: Origin) -> fx.Node:
    """(T, D) -> (T, D): down(silu(gate(x)) * up(x))."""
    gate, up = (scope.linear(x, f"{path}.{name}", at) for name in ("gate", "up"))
    hidden = scope.call(model_ops.silu_gate, gate, up, at=at)
    return scope.linear(hidden, f"{path}.down", at)
