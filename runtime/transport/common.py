"""What all transports share: argument checks, partition checks, and the one definition of a sum.

Every check runs before anything is sent, so a wrong argument is a `ValueError` on the rank that passed it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import prod
from types import TracebackType

import torch
from torch import Tensor

from moec.runtime.transport.api import DTYPES, TransportError

HALVES = (torch.bfloat16, torch.float16)
_MOVABLE = frozenset(DTYPES)


@dataclass(frozen=True)
class Ready:
    """A collective that was over as soon as it began."""

    result: Tensor

    def wait(self) -> Tensor:
        """The result, at once."""
        return self.result


class Translated:
    """A context that turns a library's errors, of class `kind`, into `TransportError`s."""

    def __init__(self, operation: str, kind: type[Exception]) -> None:
        self._operation, self._kind = operation, kind

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, self._kind):
            raise TransportError(f"{self._operation}: {error}", operation=self._operation) from error


def members_of(rank: int, world: int, axis: str, partition: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The group that holds `rank`; the partition must hold every rank once, in groups of one size."""
    if sorted(chain.from_iterable(partition)) != list(range(world)):
        raise ValueError(
            f"axis {axis!r}: {partition} does not hold each of the ranks 0..{world - 1} exactly once"
        )
    if len({len(group) for group in partition}) != 1:
        raise ValueError(f"axis {axis!r}: groups of different sizes in {partition}")
    return next(tuple(group) for group in partition if rank in group)


def groups_of(
    rank: int, world: int, axes: Mapping[str, Sequence[Sequence[int]]]
) -> dict[str, tuple[int, ...]]:
    """`members_of` for every axis, in the order of the axes."""
    return {axis: members_of(rank, world, axis, partition) for axis, partition in axes.items()}


def row_bytes(x: Tensor) -> int:
    """Bytes of one row along dim 0, which may have none; of the one element if there are no dims."""
    return x.element_size() * prod(x.shape[1:])


def check_gather(shard: Tensor, device: torch.device) -> None:
    """Arguments of an all_gather on `device`."""
    _check_rows("all_gather", shard)
    _check_moved("all_gather", shard, device)


def check_scatter(full: Tensor, size: int, device: torch.device) -> None:
    """Arguments of a reduce_scatter among `size` members."""
    _check_rows("reduce_scatter", full)
    _check_summed("reduce_scatter", full, device)
    if full.shape[0] % size:
        raise ValueError(f"reduce_scatter: {full.shape[0]} rows do not divide into {size} equal blocks")


def check_reduce(x: Tensor, device: torch.device) -> None:
    """Arguments of an all_reduce."""
    _check_summed("all_reduce", x, device)


def check_exchange(
    x: Tensor, send: Sequence[int], receive: Sequence[int], size: int, index: int, device: torch.device
) -> None:
    """Arguments of an all_to_all: the counts fit the tensor, the group, and each other on the diagonal."""
    _check_rows("all_to_all", x)
    _check_moved("all_to_all", x, device)
    if len(send) != size or len(receive) != size:
        raise ValueError(
            f"all_to_all: {len(send)} and {len(receive)} counts to send and receive, {size} members"
        )
    if min(send) < 0 or min(receive) < 0:
        raise ValueError(f"all_to_all: negative counts in {list(send)} or {list(receive)}")
    if sum(send) != x.shape[0]:
        raise ValueError(f"all_to_all: counts {list(send)} do not add up to {x.shape[0]} rows")
    if send[index] != receive[index]:
        raise ValueError(
            f"all_to_all: {send[index]} rows sent to myself, {receive[index]} expected from myself"
        )


def check_broadcast(x: Tensor, root: int, size: int, device: torch.device) -> None:
    """Arguments of a broadcast among `size` members."""
    _check_moved("broadcast", x, device)
    if not 0 <= root < size:
        raise ValueError(f"broadcast: root {root} in a group of {size} members")


def _check_moved(operation: str, x: Tensor, device: torch.device) -> None:
    if x.dtype not in _MOVABLE:
        raise ValueError(f"{operation}: {x.dtype} is not moved by transports")
    if x.device != device:
        raise ValueError(f"{operation}: the tensor is on {x.device}, the transport on {device}")


def _check_summed(operation: str, x: Tensor, device: torch.device) -> None:
    _check_moved(operation, x, device)
    if x.dtype == torch.bool:
        raise ValueError(f"{operation}: sums of bool are not defined")


def _check_rows(operation: str, x: Tensor) -> None:
    if x.dim() == 0:
        raise ValueError(f"{operation}: a tensor without dims has no rows")


def sum_in_order(parts: Sequence[Tensor]) -> Tensor:
    """((...), ...) of one shape -> (...): the sum in the order given; halves in float32, rounded once.

    Every transport that adds by itself adds like this, so that they agree bitwise.
    """
    first, *rest = parts
    if rest and first.dtype not in HALVES:
        total = torch.add(first, rest.pop(0), out=first.new_empty(first.shape))
    else:
        total = wide_copy(first)
    for part in rest:
        total.add_(part)
    return total.to(first.dtype)


def wide_copy(x: Tensor) -> Tensor:
    """A new tensor with the values of `x`, in the dtype that its sums are made in."""
    dtype = torch.float32 if x.dtype in HALVES else x.dtype
    return torch.empty(x.shape, dtype=dtype, device=x.device).copy_(x.detach())


def own_copy(x: Tensor) -> Tensor:
    """A new tensor with the values of `x`, outside autograd.

    Unlike a contiguous clone it has the strides of its shape also where a dim of size one could have any.
    """
    return x.new_empty(x.shape).copy_(x.detach())
