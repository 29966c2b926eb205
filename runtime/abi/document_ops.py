"""Attention and positions in sequences that hold several documents; `document_kernels` says how.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Legend: B sequences, S tokens of a sequence, H query heads, h key heads, d head dim, c value dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .attention_blocks import Scoring
from .document_kernels import (
    document_attention_backward_kernel,
    document_attention_kernel,
    position_scale_at_kernel,
    rope_at_kernel,
)
from .dtypes import wide
from .registry import operation


@operation("document_attention")
def document_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    documents: Tensor,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    """`attention` within documents: `documents` (B, S) int64 says where in its sequence a token's starts.

    Chunks count from the start of a document.
    """
    return document_attention_kernel(q, k, v, sinks, documents, Scoring(scale, window, chunk, softcap))


@document_attention.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    documents: Tensor,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
) -> tuple[Tensor, Tensor]:
    batch, length, heads, _ = q.shape
    lse = q.new_empty((batch, length, heads), dtype=wide(q))
    return q.new_empty((batch, length, heads, v.shape[3])), lse.transpose(1, 2)


@operation("document_attention_backward")
def document_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    documents: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
    window: int,
    chunk: int,
    softcap: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of `document_attention` for q, k, v and sinks, as they are; empty without sinks."""
    scoring = Scoring(scale, window, chunk, softcap)
    return document_attention_backward_kernel(grad, q, k, v, sinks, documents, out, lse, scoring)


@document_attention_backward.register_fake
def _(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    documents: Tensor,
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
    *grads, of_sinks = document_attention_backward(
        grad, *ctx.saved_tensors, ctx.scale, ctx.window, ctx.chunk, ctx.softcap
    )
    return *grads, None if sinks is None else of_sinks, *[None] * 5


document_attention.register_autograd(_attention_backward, setup_context=_attention_saves)


# --- positions ---


@operation("rope_at")
def rope_at(
    x: Tensor,
    positions: Tensor,
    start: int,
    frequencies: Sequence[float],
    magnitude: float,
    interleaved: bool,
    inverse: bool,
) -> Tensor:
    """`rope` by `positions` (B, S) int64, each below S."""
    return rope_at_kernel(x, positions, start, tuple(frequencies), magnitude, interleaved, inverse)


@rope_at.register_fake
def _(
    x: Tensor,
    positions: Tensor,
    start: int,
    frequencies: Sequence[float],
    magnitude: float,
    interleaved: bool,
    inverse: bool,
) -> Tensor:
    return x.new_empty(x.shape)


def _rope_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, positions, *ctx.turn = inputs
    ctx.save_for_backward(positions)


def _rope_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *turn, inverse = ctx.turn
    return rope_at(grad, *ctx.saved_tensors, *turn, not inverse), *[None] * 6


rope_at.register_autograd(_rope_backward, setup_context=_rope_saves)


@operation("position_scale_at")
def position_scale_at(x: Tensor, positions: Tensor, scale: float, period: int, offset: int) -> Tensor:
    """`position_scale` by `positions` (B, S) int64, each below S."""
    return position_scale_at_kernel(x, positions, scale, period, offset)


@position_scale_at.register_fake
def _(x: Tensor, positions: Tensor, scale: float, period: int, offset: int) -> Tensor:
    return x.new_empty(x.shape)


def _position_scale_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, positions, *ctx.factors = inputs
    ctx.save_for_backward(positions)


def _position_scale_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return position_scale_at(grad, *ctx.saved_tensors, *ctx.factors), *[None] * 4


position_scale_at.register_autograd(_position_scale_backward, setup_context=_position_scale_saves)
