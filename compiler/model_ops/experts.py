"""The way of tokens to experts and back.

A choice whose expert is none of those with parameters (an identity expert, or one without room) is not sent.
Such rows come after all others when sorted by expert, and are zero from the first product on.

Legend: T tokens, D width, E experts, K choices, N = T * K routed rows, R rows at experts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moec.runtime.abi import expert_ops, routing_ops


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    """(T, D), (T, 1) -> x * sigmoid(gate)."""
    return x * torch.sigmoid(gate)


def group_by_expert(sent: Tensor, experts: int, places: int) -> tuple[Tensor, Tensor, Tensor]:
    """(T, K) -> order (N,) that sorts the pairs by expert, its inverse (N,), rows of each expert (places,).

    What is not below `experts` goes to no expert and comes last. `places` is `experts`, or more, where ranks
    share experts that do not divide among them.
    """
    flat = sent.reshape(-1)
    order = flat.argsort(stable=True)
    counts: Tensor = routing_ops.histogram(torch.where(flat < experts, flat, places), places + 1)
    return order, routing_ops.inverse_permutation(order), counts[:places]


def dispatch(x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
    """(T, D) -> (N, D), sorted by expert."""
    rows: Tensor = routing_ops.dispatch(x, order, inverse, k)
    return rows


def weigh_rows(rows: Tensor, weights: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """(N, D), (T, K) -> (N, D): every row times the weight of its choice."""
    by_row: Tensor = routing_ops.permute_rows(weights.reshape(-1, 1), order, inverse)
    return rows * by_row


def pad_experts(rows: Tensor, counts: Tensor, room: int) -> Tensor:
    """(R, D) by expert, (e,) -> (e * room, D): zeros behind the rows of each expert."""
    padded: Tensor = routing_ops.pad_groups(rows, counts, room)
    return padded


def padded_counts(counts: Tensor, room: int) -> Tensor:
    """(e,) -> (e,): the rows of each expert when all have `room`."""
    return torch.full((counts.shape[0],), room, dtype=counts.dtype, device=counts.device)


def unpad_experts(padded: Tensor, counts: Tensor, room: int, like: Tensor) -> Tensor:
    """(e * room, D), (e,), `like` (R, ...) -> (R, D): undoes `pad_experts`; rows of no expert are zero."""
    rows: Tensor = routing_ops.unpad_groups(padded, counts, room, like.shape[0])
    return rows


def expert_mm(rows: Tensor, weight: Tensor, counts: Tensor, tail: bool) -> Tensor:
    """(R, in), (e, out, in), (e,) -> (R, out); with a `tail`, rows beyond those of experts give zero."""
    out: Tensor = expert_ops.expert_mm(rows, weight, counts, tail)
    return out


def expert_add(rows: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
    """(R, out), (e, out), (e,) -> (R, out): to the rows of each expert its bias."""
    out: Tensor = expert_ops.expert_add(rows, bias, counts)
    return out


def combine(rows: Tensor, weights: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """(N, D), (T, K) -> (T, D)."""
    out: Tensor = routing_ops.combine(rows, weights, order, inverse)
    return out


def weights_of_sent(weights: Tensor, sent: Tensor, experts: int) -> Tensor:
    """(T, K), (T, K) -> (T, K): zero where a choice goes to none of `experts`."""
    return torch.where(sent < experts, weights, 0.0)


def ones_of_sent(weights: Tensor, sent: Tensor, experts: int) -> Tensor:
    """(T, K), (T, K) -> (T, K): one, or zero where a choice goes to none of `experts`."""
    return (sent < experts).to(weights.dtype)


def identity(x: Tensor, weights: Tensor, sent: Tensor, experts: int) -> Tensor:
    """(T, D), (T, K), (T, K) -> (T, D): what identity experts give, x times all weights of theirs."""
    return x * torch.where(sent >= experts, weights, 0.0).sum(-1, keepdim=True)
