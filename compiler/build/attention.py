"""Grouped-query attention -> nodes: project, norm, clip, rotate, attend, project back."""

from __future__ import annotations

from torch import fx

from moec.compiler import model_ops
from moec.dsl.spec import Gqa, QkNorm

from .scope import LayerScope


def build_gqa(scope: LayerScope, x: fx.Node, path: str, gqa: Gqa) -> fx.Node:
    """(T, D) -> (T, D)."""
    q, k, v = (_project(scope, x, path, name, gqa) for name in ("q", "k", "v"))
    if gqa.rope is not None:
        q, k = (scope.call(model_ops.rope, t, gqa.rope.theta, at=gqa.rope.origin) for t in (q, k))
    out = scope.call(model_ops.attention, q, k, v, gqa.attend.window or 0, at=gqa.origin)
    merged = scope.call(model_ops.merge_heads, out, at=gqa.origin)
    return scope.linear(merged, f"{path}.o", gqa.origin)


def _project(scope: LayerScope, x: fx.Node, path: str, name: str, gqa: Gqa) -> fx.Node:
    """(T, D) -> (B, S, heads, d). A norm over the full width and the clip come before heads are split."""
    t = scope.linear(x, f"{path}.{name}", gqa.origin)
    norm = gqa.qk_norm if name != "v" else None
    if norm is not None and norm.over == "full":
        t = _norm(scope, t, f"{path}.{name}_norm", norm)
    if gqa.clip is not None:
        t = scope.call(model_ops.clip, t, gqa.clip, at=gqa.origin)
    t = scope.call(model_ops.split_heads, t, scope.sequence, gqa.head_dim, at=gqa.origin)
    if norm is not None and norm.over == "head":
        t = _norm(scope, t, f"{path}.{name}_norm", norm)
    return t


def _norm(scope: LayerScope, t: fx.Node, path: str, norm: QkNorm) -> fx.Node:
    return scope.call(model_ops.rms_norm, t, scope.parameters[path], norm.norm.eps, at=norm.origin)
