"""Operations that sort tokens by expert and bring them back.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Legend: T tokens of this rank, D width, E experts, K choices a token, N = T * K routed rows, R received rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .guards import check_groups, check_order, check_rows, require
from .registry import operation


@operation("histogram")
def histogram(index: Tensor, bins: int) -> Tensor:
    """(N,) int64 in [0, bins) -> (bins,) int64 counts."""
    counts = torch.bincount(index, minlength=bins)
    require(counts.shape[0] == bins, f"an index is not below {bins}", index)
    return counts


@histogram.register_fake
def _(index: Tensor, bins: int) -> Tensor:
    return index.new_empty((bins,))


@operation("entropy")
def entropy(scores: Tensor) -> Tensor:
    """(T, E) -> (T,): -sum_e p_e ln p_e in nats, where p are a token's scores, not negative, by their sum.

    Where all are 0, it is 0. It has no gradient. With s the sum of scores x, it is ln s - (sum x ln x) / s.
    """
    check_rows(scores)
    total = scores.sum(1)
    found: Tensor = total.log() + torch.special.entr(scores).sum(1) / total
    return torch.where(total == 0, 0.0, found)


@entropy.register_fake
def _(scores: Tensor) -> Tensor:
    return scores.new_empty((scores.shape[0],))


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


def _padded_places(counts: Tensor, room: int) -> Tensor:
    """(e,) sizes of groups -> (sum,) int64: where each of their rows lies when every group has `room`."""
    starts = counts.cumsum(0) - counts
    shifts = torch.arange(counts.shape[0], device=counts.device) * room - starts
    shift = shifts.repeat_interleave(counts)
    return shift + torch.arange(shift.shape[0], device=counts.device)


@operation("pad_groups")
def pad_groups(rows: Tensor, counts: Tensor, room: int) -> Tensor:
    """(R, D) in groups, (e,) int64 sizes of the groups -> (e * room, D): zeros behind the rows of each.

    Rows behind the last group are left out. No group has more than `room` rows.
    """
    check_rows(rows)
    check_groups(rows.shape[0], counts, room)
    index = _padded_places(counts, room)
    padded = rows.new_zeros((counts.shape[0] * room, rows.shape[1]))
    padded[index] = rows[: index.shape[0]]
    return padded


@pad_groups.register_fake
def _(rows: Tensor, counts: Tensor, room: int) -> Tensor:
    return rows.new_empty((counts.shape[0] * room, rows.shape[1]))


@operation("unpad_groups")
def unpad_groups(padded: Tensor, counts: Tensor, room: int, rows: int) -> Tensor:
    """(e * room, D), (e,) int64 sizes of groups -> (rows, D): undoes `pad_groups`, zeros behind groups."""
    check_rows(padded)
    require(padded.shape[0] == counts.shape[0] * room, f"every group has room for {room}", padded, counts)
    check_groups(rows, counts, room)
    index = _padded_places(counts, room)
    found = padded.new_zeros((rows, padded.shape[1]))
    found[: index.shape[0]] = padded[index]
    return found


@unpad_groups.register_fake
def _(padded: Tensor, counts: Tensor, room: int, rows: int) -> Tensor:
    return padded.new_empty((rows, padded.shape[1]))


def _pad_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.room, ctx.rows = inputs[2], inputs[0].shape[0]


def _pad_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (counts,) = ctx.saved_tensors
    return unpad_groups(grad, counts, ctx.room, ctx.rows), None, None


def _unpad_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])
    ctx.room = inputs[2]


def _unpad_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (counts,) = ctx.saved_tensors
    return pad_groups(grad, counts, ctx.room), None, None, None


pad_groups.register_autograd(_pad_backward, setup_context=_pad_saves)
unpad_groups.register_autograd(_unpad_backward, setup_context=_unpad_saves)


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
