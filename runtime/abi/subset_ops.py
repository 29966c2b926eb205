"""Operations of ranks that have the tokens of all and the experts of a few: which rows are theirs, and back.

Of the pairs (token, choice), token-major, a rank takes those that chose one of its experts, sorted by
expert. `order` (R,) says which pair a row is of; `places` (N,) says of every pair which row it has, R where
it has none.

Legend: M tokens, D width, K choices a token, N = M * K pairs, e experts here, R rows here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .guards import check_alike, check_order, check_rows, require
from .registry import operation


@operation("subset_order")
def subset_order(group: Tensor, groups: int, rows: int) -> tuple[Tensor, Tensor]:
    """(N,) int64 group of each pair, `groups` for none; how many have one -> order (rows,), places (N,)."""
    check_order(group.numel(), group)
    require(0 <= rows <= group.shape[0], f"{rows} of so many pairs have a group", group)
    by_group = group.argsort(stable=True)
    places = torch.empty_like(by_group)
    places[by_group] = torch.arange(group.shape[0], device=group.device)
    return by_group[:rows].clone(), torch.where(group < groups, places, rows)


@subset_order.register_fake
def _(group: Tensor, groups: int, rows: int) -> tuple[Tensor, Tensor]:
    return group.new_empty((rows,)), torch.empty_like(group)


def _by_choice(rows: Tensor, places: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`rows` with zeros behind them, for pairs without a row; `places` as (K, M)."""
    check_rows(rows)
    check_order(places.numel(), places)
    require(k > 0 and places.shape[0] % k == 0, f"every token has {k} choices", places)
    return torch.cat([rows, rows.new_zeros((1, rows.shape[1]))]), places.view(-1, k).t()


@operation("select_rows")
def select_rows(x: Tensor, order: Tensor, places: Tensor, k: int) -> Tensor:
    """(M, D) -> (R, D): the token's row for every pair that has a row here."""
    check_rows(x)
    check_order(x.shape[0] * k, places)
    check_order(order.numel(), order)
    return x.index_select(0, torch.div(order, k, rounding_mode="floor"))


@select_rows.register_fake
def _(x: Tensor, order: Tensor, places: Tensor, k: int) -> Tensor:
    return x.new_empty((order.shape[0], x.shape[1]))


@operation("sum_selected")
def sum_selected(rows: Tensor, places: Tensor, k: int) -> Tensor:
    """(R, D) -> (M, D): the sum of a token's rows here, in the order of its choices: undoes `select_rows`."""
    padded, by_choice = _by_choice(rows, places, k)
    total = padded.index_select(0, by_choice[0])
    for place in by_choice[1:]:
        total += padded.index_select(0, place)
    return total


@sum_selected.register_fake
def _(rows: Tensor, places: Tensor, k: int) -> Tensor:
    return rows.new_empty((places.shape[0] // k, rows.shape[1]))


def _select_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])
    ctx.k = inputs[3]


def _select_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (places,) = ctx.saved_tensors
    return sum_selected(grad, places, ctx.k), None, None, None


select_rows.register_autograd(_select_backward, setup_context=_select_saves)


@operation("combine_selected")
def combine_selected(rows: Tensor, weights: Tensor, order: Tensor, places: Tensor) -> Tensor:
    """(R, D), (M, K) -> (M, D): the weighted sum of a token's rows here, in the order of its choices."""
    check_rows(rows, weights)
    check_alike(rows, weights)
    check_order(weights.numel(), places)
    padded, by_choice = _by_choice(rows, places, weights.shape[1])
    total = padded.index_select(0, by_choice[0]).mul_(weights[:, :1])
    for choice, place in enumerate(by_choice[1:], 1):
        total.addcmul_(padded.index_select(0, place), weights[:, choice : choice + 1])
    return total


@combine_selected.register_fake
def _(rows: Tensor, weights: Tensor, order: Tensor, places: Tensor) -> Tensor:
    return rows.new_empty((weights.shape[0], rows.shape[1]))


@operation("combine_selected_grad_rows")
def combine_selected_grad_rows(grad: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    """(M, D), (M, K) -> (R, D): the gradient of `combine_selected` for its rows."""
    check_rows(grad, weights)
    check_alike(grad, weights)
    check_order(order.numel(), order)
    require(grad.shape[0] == weights.shape[0], "one gradient a token", grad, weights)
    token = torch.div(order, weights.shape[1], rounding_mode="floor")
    return grad.index_select(0, token).mul_(weights.reshape(-1).index_select(0, order).unsqueeze(1))


@combine_selected_grad_rows.register_fake
def _(grad: Tensor, weights: Tensor, order: Tensor) -> Tensor:
    return grad.new_empty((order.shape[0], grad.shape[1]))


@operation("combine_selected_grad_weights")
def combine_selected_grad_weights(grad: Tensor, rows: Tensor, places: Tensor, k: int) -> Tensor:
    """(M, D), (R, D) -> (M, K): the gradient of `combine_selected` for its weights, zero without a row."""
    check_rows(grad, rows)
    check_alike(grad, rows)
    check_order(grad.shape[0] * k, places)
    padded, by_choice = _by_choice(rows, places, k)
    found = [torch.linalg.vecdot(padded.index_select(0, place), grad) for place in by_choice]
    return torch.stack(found, 1)


@combine_selected_grad_weights.register_fake
def _(grad: Tensor, rows: Tensor, places: Tensor, k: int) -> Tensor:
    return grad.new_empty((grad.shape[0], k))


def _combine_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _combine_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weights, order, places = ctx.saved_tensors
    grad = grad.contiguous()
    grad_weights = combine_selected_grad_weights(grad, rows, places, weights.shape[1])
    return combine_selected_grad_rows(grad, weights, order), grad_weights, None, None


combine_selected.register_autograd(_combine_backward, setup_context=_combine_saves)
