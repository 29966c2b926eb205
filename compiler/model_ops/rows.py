"""Rows by themselves: embedding, norms, linears, sums.

Legend: B sequences, S tokens of a sequence, T = B * S tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from moec.runtime.abi import row_ops


def embed(tokens: Tensor, table: Tensor) -> Tensor:
    """(B, S) int64, (V, D) -> (T, D)."""
    return F.embedding(tokens.reshape(-1), table)


def rms_norm(x: Tensor, weight: Tensor | None, eps: float, offset: float = 0.0) -> Tensor:
    """(..., D), (D,) -> x / rms(x) * (weight + offset), (..., D); times nothing without a weight."""
    out: Tensor = row_ops.rms_norm(x, _offset(weight, offset), eps)[0]
    return out


def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, offset: float = 0.0
) -> Tensor:
    """(..., D), (D,), (D,) -> (x - mean) / deviation * (weight + offset) + bias, of what there is."""
    out: Tensor = row_ops.layer_norm(x, _offset(weight, offset), bias, eps)[0]
    return out


def _offset(weight: Tensor | None, offset: float) -> Tensor | None:
    return weight + offset if weight is not None and offset else weight


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(T, in), (out, in), (out,) -> (T, out)."""
    return F.linear(x, weight, bias)


def add(x: Tensor, y: Tensor) -> Tensor:
    """A residual branch."""
    return x + y
