"""How tokens travel to the ranks of their experts and back: the operations that redistribution lowers to.

Plain functions over `moec.runtime.abi.collective_ops`, for partitioned graphs. Token counts travel
first, as tensors; the number of rows a rank receives is the one size of a region that depends on data.

Legend: n ranks on the axis, e experts of this rank, E = n * e, N routed rows here, R received rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moec.runtime.abi import collective_ops, counter_ops, routing_ops, subset_ops


def exchange_counts(counts: Tensor, ranks: int, axis: str) -> Tensor:
    """(E,) int64 rows here by expert -> (n, e): rows that arrive here, by source and expert."""
    experts = counts.shape[0]
    each = torch.full((ranks,), experts // ranks, dtype=torch.int64, device=counts.device)
    arriving: Tensor = collective_ops.all_to_all(counts, each, each, experts, axis)
    return arriving.view(ranks, -1)


def rows_by_member(counts: Tensor, ranks: int) -> Tensor:
    """(E,) or (n, e) -> (n,): rows to, or from, every rank of the axis."""
    return counts.view(ranks, -1).sum(1)


def rows_by_expert(arriving: Tensor) -> Tensor:
    """(n, e) -> (e,): rows of every expert of this rank."""
    return arriving.sum(0)


def total(receive: Tensor) -> int:
    """(n,) -> R, known only when the counts have arrived."""
    received = receive.sum().item()
    torch._check(received >= 0)  # type: ignore[no-untyped-call]
    return int(received) if isinstance(received, float) else received


def group_received(arriving: Tensor, received: int) -> tuple[Tensor, Tensor]:
    """(n, e), R -> the permutation (R,) from source-major rows to expert-major rows, and its inverse."""
    ranks, experts = arriving.shape
    expert = torch.arange(experts, device=arriving.device).repeat(ranks)
    order = expert.repeat_interleave(arriving.view(-1), output_size=received).argsort(stable=True)
    inverse: Tensor = routing_ops.inverse_permutation(order)
    return order, inverse


def all_to_all(x: Tensor, send: Tensor, receive: Tensor, rows: int, axis: str) -> Tensor:
    """The first sum(send) rows to the ranks of `axis`, and theirs: (R, ...) -> (rows, ...), zeros behind."""
    out: Tensor = collective_ops.all_to_all(x, send, receive, rows, axis)
    return out


def permute_rows(x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """(R, D) -> (R, D)."""
    out: Tensor = routing_ops.permute_rows(x, order, inverse)
    return out


def all_reduce(x: Tensor, axis: str) -> Tensor:
    """The sum over `axis`."""
    out: Tensor = collective_ops.all_reduce(x, axis)
    return out


def gather_rows(x: Tensor, ranks: int, axis: str) -> Tensor:
    """(T, D) -> (n * T, D): the rows of all ranks of `axis`, in their order."""
    flat = collective_ops.shard_gather(x.reshape(-1), ranks, axis)
    return flat.view(ranks * x.shape[0], *x.shape[1:])  # type: ignore[no-any-return]


def scatter_sums(x: Tensor, ranks: int, axis: str) -> Tensor:
    """(n * T, D) summands -> (T, D): the sum over `axis` of this rank's rows."""
    flat = collective_ops.reduce_scatter(x.reshape(-1), ranks, axis)
    return flat.view(x.shape[0] // ranks, *x.shape[1:])  # type: ignore[no-any-return]


def own_expert(sent: Tensor, experts: int, local: int, axis: str) -> Tensor:
    """(M, K) experts that were chosen -> (N,): which of the `local` ones of this rank, or `local` for none.

    What is not below `experts` was sent to none.
    """
    flat = sent.reshape(-1)
    here = flat - collective_ops.member(sent, axis) * local
    own = torch.logical_and(torch.logical_and(here >= 0, here < local), flat < experts)
    return torch.where(own, here, local)


def own_counts(own: Tensor, local: int) -> Tensor:
    """(N,) -> (e,) int64: rows of every expert of this rank."""
    counts: Tensor = routing_ops.histogram(own, local + 1)
    return counts[:local]


def own_order(own: Tensor, local: int, received: int) -> tuple[Tensor, Tensor]:
    """(N,), R -> order (R,) of the pairs that chose experts of this rank, by expert; places (N,) in it."""
    order, places = subset_ops.subset_order(own, local, received)
    return order, places


def dispatch_own(x: Tensor, order: Tensor, places: Tensor, k: int) -> Tensor:
    """(M, D) -> (R, D): the rows of tokens for experts of this rank, by expert."""
    rows: Tensor = subset_ops.select_rows(x, order, places, k)
    return rows


def weigh_own(rows: Tensor, weights: Tensor, order: Tensor, places: Tensor) -> Tensor:
    """(R, D), (M, K) -> (R, D): every row times the weight of its choice."""
    by_row: Tensor = subset_ops.select_rows(weights.reshape(-1, 1), order, places, 1)
    return rows * by_row


def combine_own(rows: Tensor, weights: Tensor, order: Tensor, places: Tensor) -> Tensor:
    """(R, D), (M, K) -> (M, D): what the experts of this rank add to every token."""
    out: Tensor = subset_ops.combine_selected(rows, weights, order, places)
    return out


def shuffle_order(key: Tensor, first: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """() and () int64 -> a random permutation (T,) of this rank's tokens, and its inverse."""
    order: Tensor = counter_ops.random_order(key, first, tokens)
    inverse: Tensor = routing_ops.inverse_permutation(order)
    return order, inverse


def shuffle(x: Tensor, order: Tensor, inverse: Tensor, ranks: int, axis: str) -> Tensor:
    """(T, D) -> (T, D): random tokens of this rank to every rank of `axis`, as many to each.

    What does not divide by n stays.
    """
    return _swap_blocks(permute_rows(x, order, inverse), ranks, axis)


def unshuffle(x: Tensor, order: Tensor, inverse: Tensor, ranks: int, axis: str) -> Tensor:
    """(T, D) -> (T, D): undoes `shuffle`."""
    return permute_rows(_swap_blocks(x, ranks, axis), inverse, order)


def _swap_blocks(x: Tensor, ranks: int, axis: str) -> Tensor:
    """Of n equal blocks of rows, the i-th of rank j for the j-th of rank i; what does not divide stays."""
    each, rest = divmod(x.shape[0], ranks)
    if each == 0:
        return x
    counts = torch.full((ranks,), each, dtype=torch.int64, device=x.device)
    moving, staying = x.split_with_sizes([ranks * each, rest])
    moved: Tensor = collective_ops.all_to_all(moving, counts, counts, ranks * each, axis)
    return torch.cat([moved, staying]) if rest else moved


def redistribute(x: Tensor, to: str) -> Tensor:
    """A value in another layout: a mark between `insert_redistribution` and `lower_redistribution`."""
    return x
