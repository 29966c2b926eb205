"""Rows by themselves: embedding, norms, linears, sums.

Legend: B sequences, S tokens of a sequence, T = B * S tokens, D width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from moec.runtime.abi import row_ops
from moec.runtime.abi.dtypes import wide


def embed(tokens: Tensor, table: Tensor) -> Tensor:
    """(B, S) int64, (V, D) -> (T, D)."""
    if table.dtype == wide(table):
        return F.embedding(tokens.reshape(-1), table)
    out: Tensor = _Lookup.apply(tokens.reshape(-1), table)  # type: ignore[no-untyped-call]
    return out


class _Lookup(torch.autograd.Function):
    """An embedding of halves whose gradient is summed in float32: a frequent word has thousands of terms."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, table: Tensor) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.rows, ctx.dtype = table.shape[0], table.dtype
        return F.embedding(tokens, table)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        (tokens,) = ctx.saved_tensors
        whole = torch.ops.aten.embedding_dense_backward.default(
            grad.to(wide(grad)), tokens, ctx.rows, -1, False
        )
        return None, whole.to(ctx.dtype)


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x in another dtype, rounded to the nearest where that is narrower; its gradient is in its own."""
    return x.to(dtype)


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
