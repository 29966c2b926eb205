"""Grouped-query attention -> nodes: project, norm, clip, rotate, attend, project back."""

from __future__ import annotations

from torch import fx

from moec.compiler import model_ops
from moec.dsl.spec import Attend, Gqa, Origin, QkNorm

from .norms import build_norm
from .positions import build_rope
from .scope import LayerScope


def build_gqa(scope: LayerScope, x: fx.Node, path: str, gqa: Gqa) -> fx.Node:
    """(T, D) -> (T, D)."""
    q, k = (_rotated(scope, x, path, name, gqa) for name in ("q", "k"))
    v = _projected(scope, x, path, "v", gqa, None)
    if gqa.value_scale != 1.0:
        v = scope.call(model_ops.scaled, v, gqa.value_scale, at=gqa.origin)
    scale = gqa.head_dim**-0.5 if gqa.attend.scale is None else gqa.attend.scale
    merged = build_attend(scope, x, (q, k, v), path, gqa.attend, scale, gqa.origin)
    return scope.linear(merged, f"{path}.o", gqa.origin)


def build_attend(
    scope: LayerScope,
    x: fx.Node,
    heads: tuple[fx.Node, fx.Node, fx.Node],
    path: str,
    attend: Attend,
    scale: float,
    at: Origin,
) -> fx.Node:
    """Queries (B, S, H, d), keys (B, S, h, d) and values (B, S, h, c), made from x (T, D) -> (T, H * c)."""
    q, k, v = heads
    if attend.temperature is not None:
        t, positions = attend.temperature, scope.positions(attend.temperature.origin)
        at_positions = [] if positions is None else [positions]
        q = scope.call(model_ops.log_temperature, q, t.scale, t.period, t.offset, *at_positions, at=t.origin)
    options: dict[str, object] = {
        "window": attend.window,
        "chunk": attend.chunk,
        "softcap": attend.softcap,
        "sinks": scope.parameters[f"{path}.sinks"] if attend.sinks else None,
        "documents": scope.facts.get("documents"),
    }
    given = {name: option for name, option in options.items() if option is not None}
    out = scope.call(model_ops.attention, q, k, v, scale=scale, at=at, **given)
    if attend.gate is not None:
        gate = scope.linear(x, f"{path}.gate", attend.gate.origin)
        out = scope.call(model_ops.gate_heads, out, gate, attend.gate.act, at=attend.gate.origin)
    return scope.call(model_ops.merge_heads, out, at=at)


def _rotated(scope: LayerScope, x: fx.Node, path: str, name: str, gqa: Gqa) -> fx.Node:
    """Queries or keys, (T, D) -> (B, S, heads, d), with their norm on the one or the other side of rope."""
    norm = gqa.qk_norm
    after = norm is not None and norm.after_rope
    t = _projected(scope, x, path, name, gqa, None if after else norm)
    if gqa.rope is not None:
        t = build_rope(scope, t, gqa.rope, gqa.head_dim)
    if norm is not None and after:
        t = build_norm(scope, t, f"{path}.{name}_norm", norm.norm, norm.origin)
    return t


def _projected(scope: LayerScope, x: fx.Node, path: str, name: str, gqa: Gqa, norm: QkNorm | None) -> fx.Node:
    """(T, D) -> (B, S, heads, d). A norm over the full width and the clip come before heads are split."""
    t = scope.linear(x, f"{path}.{name}", gqa.origin)
    if norm is not None and norm.over == "full":
        t = build_norm(scope, t, f"{path}.{name}_norm", norm.norm, norm.origin)
    if gqa.clip is not None:
        t = scope.call(model_ops.clip, t, gqa.clip, at=gqa.origin)
    dims = gqa.value_dim if name == "v" else gqa.head_dim
    t = scope.call(model_ops.split_heads, t, scope.sequence, dims, at=gqa.origin)
    if norm is not None and norm.over == "head":
        t = build_norm(scope, t, f"{path}.{name}_norm", norm.norm, norm.origin)
    return t
