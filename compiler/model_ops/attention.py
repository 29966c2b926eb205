"""Attention: heads, positions, scores.

Legend: B sequences, S tokens of a sequence, T = B * S tokens, H heads, h heads of keys, d head dim, c value
dim.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from moec.runtime.abi import attention_ops, document_ops, row_ops


def split_heads(x: Tensor, sequence: int, head_dim: int) -> Tensor:
    """(T, H * d) -> (B, S, H, d)."""
    return x.view(-1, sequence, x.shape[1] // head_dim, head_dim)


def merge_heads(x: Tensor) -> Tensor:
    """(B, S, H, d) -> (T, H * d)."""
    return x.reshape(x.shape[0] * x.shape[1], -1)


def clip(x: Tensor, limit: float) -> Tensor:
    """Every element into [-limit, limit]."""
    return x.clamp(-limit, limit)


def split_dims(x: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """(..., d) -> (..., first), (..., d - first)."""
    left, right = x.split_with_sizes([first, x.shape[-1] - first], -1)
    return left, right


def share_key(x: Tensor, shared: Tensor) -> Tensor:
    """(B, S, H, n), (B, S, 1, r) -> (B, S, H, n + r): every head's own part of a key, and the shared one."""
    return torch.cat([x, shared.expand(-1, -1, x.shape[2], -1)], -1)


def rope(
    x: Tensor,
    frequencies: Sequence[float],
    magnitude: float = 1.0,
    interleaved: bool = False,
    start: int = 0,
    positions: Tensor | None = None,
) -> Tensor:
    """(B, S, H, d) -> the same: n pairs of dims from `start` on turned by position * frequency.

    A pair is dims i and i + n, or `interleaved` dims 2 i and 2 i + 1, and gets longer by `magnitude`.
    Positions are those in a sequence, unless `positions` (B, S) int64 are given.
    """
    turn = (start, frequencies, magnitude, interleaved, False)
    out: Tensor = row_ops.rope(x, *turn) if positions is None else document_ops.rope_at(x, positions, *turn)
    return out


def log_temperature(
    x: Tensor, scale: float, period: int, offset: int, positions: Tensor | None = None
) -> Tensor:
    """(B, S, H, d) -> position p times 1 + scale * ln(1 + floor((p + offset) / period)).

    Positions are those in a sequence, unless `positions` (B, S) int64 are given.
    """
    if positions is None:
        out: Tensor = row_ops.position_scale(x, scale, period, offset)
    else:
        out = document_ops.position_scale_at(x, positions, scale, period, offset)
    return out


def document_positions(documents: Tensor) -> Tensor:
    """(B, S) int64, where in its sequence the document of each token starts -> its place in that (B, S)."""
    return torch.arange(documents.shape[1], device=documents.device) - documents


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    window: int = 0,
    chunk: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    """Causal: (B, S, H, d), (B, S, h, d), (B, S, h, c) -> (B, S, H, c).

    `window` keys are seen, those of a query's own chunk of `chunk` positions; 0 for all. Scores are bounded
    by `softcap` unless it is 0. `sinks`, (H,), are one more score of the softmax, with no value. With
    `documents` (B, S) int64, where in its sequence the document of each token starts, no token sees another
    document, and chunks count from its start.
    """
    limits = (scale, window, chunk, softcap)
    if documents is None:
        out: Tensor = attention_ops.attention(q, k, v, sinks, *limits)[0]
    else:
        out = document_ops.document_attention(q, k, v, sinks, documents, *limits)[0]
    return out


def gate_heads(x: Tensor, gate: Tensor, act: str) -> Tensor:
    """(B, S, H, c) times act(gate), of (T, H * c) for every element or (T, H) for every head."""
    factor = torch.sigmoid(gate) if act == "sigmoid" else F.softplus(gate)
    return x * factor.view(*x.shape[:3], factor.shape[1] // x.shape[2])
