"""Norms -> nodes: of the residual stream, of queries and keys, of latents."""

from __future__ import annotations

from torch import fx

from moec.compiler import model_ops
from moec.dsl.spec import LayerNorm, Norm, Origin

from .scope import LayerScope


def build_norm(scope: LayerScope, x: fx.Node, path: str, norm: Norm, at: Origin) -> fx.Node:
    """(..., D) -> (..., D): `path` is its weight and `path`_bias its bias, where it has them."""
    weight = None if norm.weight == "none" else scope.parameters[path]
    offset = [1.0] if norm.weight == "offset" else []
    if isinstance(norm, LayerNorm):
        bias = scope.parameters[f"{path}_bias"] if norm.bias else None
        return scope.call(model_ops.layer_norm, x, weight, bias, norm.eps, *offset, at=at)
    return scope.call(model_ops.rms_norm, x, weight, norm.eps, *offset, at=at)
