"""Attention.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Legend: B sequences, S tokens of a sequence, H query heads, h key heads, d head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention_kernels import attention_backward_kernel, attention_kernel
from .registry import operation


@operation("attention")
def attention(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> tuple[Tensor, Tensor]:
    """Causal attention. (B, S, H, d), 2 x (B, S, h, d) with h dividing H -> (B, S, H, d), (B, H, S).

    A query sees itself and the `window - 1` keys before it; 0 means all keys before it. The second result is
    the logsumexp of the scores, kept for backward.
    """
    return attention_kernel(q, k, v, scale, window)


@attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = q.shape
    lse = q.new_empty((batch, length, heads), dtype=torch.promote_types(q.dtype, torch.float32))
    return q.new_empty(q.shape), lse.transpose(1, 2)


@operation("attention_backward")
def attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `attention` for q, k and v, shaped as they are."""
    return attention_backward_kernel(grad, q, k, v, out, lse, scale, window)


@attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _attention_saves(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, ctx.scale, ctx.window = inputs
    ctx.save_for_backward(q, k, v, *output)


def _attention_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    q, k, v, out, lse = ctx.saved_tensors
    grads = attention_backward(grad, q, k, v, out, lse, ctx.scale, ctx.window)
    return *grads, None, None


attention.register_autograd(_attention_backward, setup_context=_attention_saves)
