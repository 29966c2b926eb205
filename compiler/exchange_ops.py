"""How tokens travel to the ranks of their experts and back: the operations that redistribution lowers to.

Plain functions over `moec.runtime.abi.collective_ops`, for partitioned graphs. Token counts travel
first, as tensors; the number of rows a rank receives is the one size of a region that depends on data.

Legend: n ranks on the axis, e experts of this rank, E = n * e, N routed rows here, R received rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moec.runtime.abi import collective_ops, routing_ops


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


def redistribute(x: Tensor, to: str) -> Tensor:
    """A value in another layout: a mark between `insert_redistribution` and `lower_redistribution`."""
    return x
