"""Multi-head latent attention -> nodes: queries, and keys with values, by way of low-rank latents.

Legend: T tokens, D width, B sequences, S tokens of a sequence, H heads, n own dims of a head's query and key,
r rotated ones, c value dim.
"""

from __future__ import annotations

import math

from torch import fx

from moec.compiler import model_ops
from moec.compiler.graph import value
from moec.dsl.spec import Mla

from .attention import build_attend
from .norms import build_norm
from .positions import build_rope, score_factor
from .scope import LayerScope


def build_mla(scope: LayerScope, x: fx.Node, path: str, mla: Mla) -> fx.Node:
    """(T, D) -> (T, D)."""
    q = _queries(scope, x, path, mla)
    k, v = _keys_and_values(scope, x, path, mla)
    scale = (mla.nope_dim + mla.rope_dim) ** -0.5 if mla.attend.scale is None else mla.attend.scale
    scale *= score_factor(mla.rope)
    merged = build_attend(scope, x, (q, k, v), path, mla.attend, scale, mla.origin)
    return scope.linear(merged, f"{path}.o", mla.origin)


def _queries(scope: LayerScope, x: fx.Node, path: str, mla: Mla) -> fx.Node:
    """(T, D) -> (B, S, H, n + r), a head's rotated dims last."""
    if mla.q_rank is None:
        q = scope.linear(x, f"{path}.q", mla.origin)
    else:
        latent = scope.linear(x, f"{path}.q_down", mla.origin)
        latent = _latent(scope, latent, f"{path}.q_norm", mla, value(x).shape[1] / mla.q_rank)
        q = scope.linear(latent, f"{path}.q_up", mla.origin)
    heads = _heads(scope, q, mla.nope_dim + mla.rope_dim, mla)
    return heads if mla.rope is None else build_rope(scope, heads, mla.rope, mla.rope_dim, mla.nope_dim)


def _keys_and_values(scope: LayerScope, x: fx.Node, path: str, mla: Mla) -> tuple[fx.Node, fx.Node]:
    """(T, D) -> (B, S, H, n + r), (B, S, H, c): all heads have one rotated part of a key."""
    down = scope.linear(x, f"{path}.kv_down", mla.origin)
    latent, shared = _split(scope, down, mla.kv_rank, mla)
    latent = _latent(scope, latent, f"{path}.kv_norm", mla, value(x).shape[1] / mla.kv_rank)
    up = scope.linear(latent, f"{path}.kv_up", mla.origin)
    own, v = _split(scope, _heads(scope, up, mla.nope_dim + mla.value_dim, mla), mla.nope_dim, mla)
    shared = _heads(scope, shared, mla.rope_dim, mla)
    if mla.rope is not None:
        shared = build_rope(scope, shared, mla.rope, mla.rope_dim)
    return scope.call(model_ops.share_key, own, shared, at=mla.origin), v


def _latent(scope: LayerScope, x: fx.Node, path: str, mla: Mla, ratio: float) -> fx.Node:
    """A latent with its norm; LongCat-Flash undoes what its lower rank takes from the variance."""
    x = build_norm(scope, x, path, mla.norm, mla.norm.origin)
    return scope.call(model_ops.scaled, x, math.sqrt(ratio), at=mla.origin) if mla.latent_scale else x


def _heads(scope: LayerScope, x: fx.Node, dims: int, mla: Mla) -> fx.Node:
    return scope.call(model_ops.split_heads, x, scope.sequence, dims, at=mla.origin)


def _split(scope: LayerScope, x: fx.Node, first: int, mla: Mla) -> tuple[fx.Node, fx.Node]:
    left, right = scope.builder.unpack(scope.call(model_ops.split_dims, x, first, at=mla.origin), 2)
    return left, right
