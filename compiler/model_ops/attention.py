"""Attention: heads, positions, scores.

Legend: B sequences, S tokens of a sequence, T = B * S tokens, H heads, h heads of keys, d head dim.
"""

from __future__ import annotations

from torch import Tensor

from moec.runtime.abi import attention_ops, row_ops


def split_heads(x: Tensor, sequence: int, head_dim: int) -> Tensor:
    """(T, H * d) -> (B, S, H, d)."""
    return x.view(-1, sequence, x.shape[1] // head_dim, head_dim)


def merge_heads(x: Tensor) -> Tensor:
    """(B, S, H, d) -> (T, H * d)."""
    return x.reshape(x.shape[0] * x.shape[1], -1)


def clip(x: Tensor, limit: float) -> Tensor:
    """Every element into [-limit, limit]."""
    return x.clamp(-limit, limit)


def rope(x: Tensor, theta: float) -> Tensor:
    """(B, S, H, d) -> the same, rotated by position: the first half of the dims pairs with the second."""
    out: Tensor = row_ops.rope(x, theta, False)
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal: (B, S, H, d), 2 x (B, S, h, d) -> (B, S, H, d); `window` keys are seen, 0 for all."""
    out: Tensor = attention_ops.attention(q, k, v, q.shape[-1] ** -0.5, window)[0]
    return out
