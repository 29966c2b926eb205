"""Attention.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Legend: B sequences, S tokens of a sequence, H query heads, h key heads, d head dim, c value dim.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .attention_blocks import Scoring
from .attention_kernels import attention_backward_kernel, attention_kernel
from .dtypes import wide
from .registry import operation


@operation("attention")
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """Causal attention. (B, S, H, d), (B, S, h, d), (B, S, h, c), (H,) -> (B, S, H, c), (B, H, S), h | H.

    A query sees itself and the `window - 1` keys before it, those in its own chunk of `chunk` positions; 0
    means no such limit. Scores s become softcap * tanh(s / softcap) unless `softcap` is 0. `sinks` are one
    more score a head, with no value. The second result is the logsumexp of the scores, kept for backward.
    """
    return attention_kernel(q, k, v, sinks, Scoring(scale, window, chunk, softcap))


@attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = q.shape
    lse = q.new_empty((batch, length, heads), dtype=wide(q))
    return q.new_empty((batch, length, heads, v.shape[3])), lse.transpose(1, 2)


@operation("attention_backward")
def attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `attention` for q, k, v and sinks, as they are; empty without sinks."""
    return attention_backward_kernel(grad, q, k, v, sinks, out, lse, Scoring(scale, window, chunk, softcap))


@attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_sinks = q.new_empty(0 if sinks is None else sinks.shape, dtype=wide(q))
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), of_sinks


def _attention_saves(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *operands, ctx.scale, ctx.window, ctx.chunk, ctx.softcap = inputs
    ctx.save_for_backward(*operands, *output)


def _attention_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    sinks = ctx.saved_tensors[3]
    *grads, of_sinks = attention_backward(
        grad, *ctx.saved_tensors, ctx.scale, ctx.window, ctx.chunk, ctx.softcap
    )
    return *grads, None if sinks is None else of_sinks, None, None, None, None


attention.register_autograd(_attention_backward, setup_context=_attention_saves)
