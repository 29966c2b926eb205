"""The operations of the instruction set that are ours: typed, traceable, differentiable, free of ranks.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too. The
collectives are in `collective_ops`.

Legend: T tokens of this rank, D width, F hidden width, E experts, e experts of this rank, K choices a token,
N = T * K routed rows, R received rows, B sequences, S tokens of a sequence, H heads, d
head dim.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attention_kernels import attention_backward_kernel, attention_kernel
from .expert_kernels import expert_mm_kernel, expert_mm_weight_grad_kernel
from .guards import check_order, check_rows, require
from .registry import operation
from .row_kernels import rms_norm_backward_kernel, rms_norm_kernel, rope_kernel

# --- routing ---


@operation("histogram")
def histogram(index: Tensor, bins: int) -> Tensor:
    """(N,) int64 in [0, bins) -> (bins,) int64 counts."""
    counts = torch.bincount(index, minlength=bins)
    require(counts.shape[0] == bins, f"an index is not below {bins}", index)
    return counts


@histogram.register_fake
def _(index: Tensor, bins: int) -> Tensor:
    return index.new_empty((bins,))


@operation("inverse_permutation")
def inverse_permutation(order: Tensor) -> Tensor:
    """(N,) int64 permutation -> its inverse."""
    check_order(order.numel(), order)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.shape[0], device=order.device)
    return inverse


@inverse_permutation.register_fake
def _(order: Tensor) -> Tensor:
    return torch.empty_like(order)


@operation("permute_rows")
def permute_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """(R, D) -> (R, D): row i is x[order[i]].

    `inverse` undoes `order`, so that backward is a gather as well.
    """
    check_rows(x)
    check_order(x.shape[0], order, inverse)
    return x.index_select(0, order)


@permute_rows.register_fake
def _(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    return torch.empty_like(x)


def _permute_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1], inputs[2])


def _permute_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    order, inverse = ctx.saved_tensors
    return permute_rows(grad, inverse, order), None, None


permute_rows.register_autograd(_permute_backward, setup_context=_permute_saves)


@operation("dispatch")
def dispatch(x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
    """(T, D) -> (N, D): a copy of a token's row for each of its k choices, sorted by expert.

    `order`: (N,) permutation of the (token, choice) pairs, token-major, that sorts them by expert; `inverse`
    undoes it.
    """
    check_rows(x)
    check_order(x.shape[0] * k, order, inverse)
    return x.index_select(0, torch.div(order, k, rounding_mode="floor"))


@dispatch.register_fake
def _(x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
    return x.new_empty((order.shape[0], x.shape[1]))


@operation("undispatch")
def undispatch(rows: Tensor, inverse: Tensor, k: int) -> Tensor:
    """(N, D) -> (T, D): the sum of a token's rows, always in the order of its choices."""
    check_rows(rows)
    check_order(rows.shape[0], inverse)
    require(k > 0 and rows.shape[0] % k == 0, f"every token has {k} rows", rows)
    return rows.index_select(0, inverse).view(-1, k, rows.shape[1]).sum(1)


@undispatch.register_fake
def _(rows: Tensor, inverse: Tensor, k: int) -> Tensor:
    return rows.new_empty((inverse.shape[0] // k, rows.shape[1]))


def _dispatch_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])
    ctx.k = inputs[3]


def _dispatch_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (inverse,) = ctx.saved_tensors
    return undispatch(grad, inverse, ctx.k), None, None, None


dispatch.register_autograd(_dispatch_backward, setup_context=_dispatch_saves)


@operation("combine")
def combine(rows: Tensor, weights: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """(N, D), (T, K) -> (T, D): the weighted sum of a token's expert outputs, in the order of its choices."""
    check_rows(rows, weights)
    check_order(weights.numel(), order, inverse)
    tokens, k = weights.shape
    return torch.bmm(
        weights.unsqueeze(1), rows.index_select(0, inverse).view(tokens, k, rows.shape[1])
    ).squeeze(1)


@combine.register_fake
def _(rows: Tensor, weights: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    return rows.new_empty((weights.shape[0], rows.shape[1]))


@operation("combine_grad_rows")
def combine_grad_rows(grad: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    """(T, D), (T, K) -> (N, D): the gradient of `combine` for its rows."""
    check_rows(grad, weights)
    check_order(weights.numel(), order)
    require(grad.shape[0] == weights.shape[0], "one gradient a token", grad, weights)
    token = torch.div(order, weights.shape[1], rounding_mode="floor")
    return grad.index_select(0, token).mul_(weights.reshape(-1).index_select(0, order).unsqueeze(1))


@combine_grad_rows.register_fake
def _(grad: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    return grad.new_empty((order.shape[0], grad.shape[1]))


@operation("combine_grad_weights")
def combine_grad_weights(grad: Tensor, rows: Tensor, inverse: Tensor, k: int) -> Tensor:
    """(T, D), (N, D) -> (T, K): the gradient of `combine` for its weights."""
    check_rows(grad, rows)
    check_order(grad.shape[0] * k, inverse)
    by_token = rows.index_select(0, inverse).view(grad.shape[0], k, grad.shape[1])
    return torch.bmm(by_token, grad.unsqueeze(2)).squeeze(2)


@combine_grad_weights.register_fake
def _(grad: Tensor, rows: Tensor, inverse: Tensor, k: int) -> Tensor:
    return grad.new_empty((grad.shape[0], k))


def _combine_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _combine_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weights, order, inverse = ctx.saved_tensors
    grad = grad.contiguous()
    grad_weights = combine_grad_weights(grad, rows, inverse, weights.shape[1])
    return combine_grad_rows(grad, weights, order), grad_weights, None, None


combine.register_autograd(_combine_backward, setup_context=_combine_saves)


# --- experts ---


@operation("expert_mm")
def expert_mm(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """(R, in), (e, out, in), (e,) int64 -> (R, out): rows sorted by expert, counts[i] of them times W_i^T."""
    return expert_mm_kernel(x, weight, counts)


@expert_mm.register_fake
def _(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[1]))


@operation("expert_mm_weight_grad")
def expert_mm_weight_grad(grad: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    """(R, out), (R, in), (e,) -> (e, out, in): grad^T x over each expert's rows, zero where it has none."""
    return expert_mm_weight_grad_kernel(grad, x, counts)


@expert_mm_weight_grad.register_fake
def _(grad: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty((counts.shape[0], grad.shape[1], x.shape[1]))


def _expert_mm_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _expert_mm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, counts = ctx.saved_tensors
    return expert_mm(grad, weight.transpose(1, 2), counts), expert_mm_weight_grad(grad, x, counts), None


expert_mm.register_autograd(_expert_mm_backward, setup_context=_expert_mm_saves)


# --- norms and positions ---


@operation("rms_norm")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(..., D), (D,) -> x / rms(x) * weight (..., D), and 1 / rms (..., 1), kept for backward."""
    return rms_norm_kernel(x, weight, eps)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 1))


@operation("rms_norm_backward")
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `rms_norm` for x (..., D) and weight (D,)."""
    return rms_norm_backward_kernel(grad, x, weight, rstd)


@rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _rms_norm_saves(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _rms_norm_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *rms_norm_backward(grad, *ctx.saved_tensors), None


rms_norm.register_autograd(_rms_norm_backward, setup_context=_rms_norm_saves)


@operation("rope")
def rope(x: Tensor, theta: float, inverse: bool) -> Tensor:
    """(B, S, H, d) -> the same: dims i and i + d/2 rotated by position * theta^(-2i/d); `inverse`: back."""
    return rope_kernel(x, theta, inverse)


@rope.register_fake
def _(x: Tensor, theta: float, inverse: bool) -> Tensor:
    return x.new_empty(x.shape)


def _rope_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.theta, ctx.inverse = inputs


def _rope_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return rope(grad, ctx.theta, not ctx.inverse), None, None


rope.register_autograd(_rope_backward, setup_context=_rope_saves)


# --- attention ---


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
