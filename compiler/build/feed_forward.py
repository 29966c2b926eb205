"""Feed-forward networks -> nodes: one that every token passes, or all experts of a mixture at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import fx

from moec.compiler import model_ops
from moec.dsl.spec import Ffn

from .scope import LayerScope

Linear = Callable[[fx.Node, str], fx.Node]
"""(R, in), the name of a matrix -> (R, out): the product with it, plus its bias where there is one."""


def build_ffn(scope: LayerScope, x: fx.Node, path: str, ffn: Ffn) -> fx.Node:
    """(T, D) -> (T, D)."""

    def linear(rows: fx.Node, name: str) -> fx.Node:
        return scope.linear(rows, f"{path}.{name}", ffn.origin)

    return build_network(scope, x, ffn, linear)


def build_network(scope: LayerScope, x: fx.Node, ffn: Ffn, linear: Linear) -> fx.Node:
    """(R, D) -> (R, D): down(act(gate(x)) * (up(x) + offset)), or down(act(up(x))), matrices by `linear`."""
    call = partial(scope.call, at=ffn.origin)
    if not ffn.gated:
        return linear(call(model_ops.activate, linear(x, "up"), ffn.activation, ffn.alpha), "down")
    gate, up = linear(x, "gate"), linear(x, "up")
    if ffn.clamp is not None:
        gate, up = call(model_ops.clamp_above, gate, ffn.clamp), call(model_ops.clip, up, ffn.clamp)
    gate = call(model_ops.activate, gate, ffn.activation, ffn.alpha)
    if ffn.clamp_after is not None:
        gate = call(model_ops.clamp_above, gate, ffn.clamp_after)
        up = call(model_ops.clip, up, ffn.clamp_after)
    return linear(call(model_ops.gated, gate, up, ffn.offset), "down")
