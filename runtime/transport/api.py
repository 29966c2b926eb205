"""What the runtime asks of a network: one small protocol, one contract test suite for all implementations.

A `Transport` is this rank's view of the job. `Transport.groups` makes the communicators of the mesh axes,
once, at start; a `Group` has the collectives of the instruction set, each in a start half that returns a
`Handle` and a wait half. Every member of a group starts the same collectives in the same order; within a
rank, waits may come in any order.

Legend: n members, my index i. Tensors are on `Transport.device`, contiguous or not; results are new,
contiguous tensors, outside autograd. Inputs must not be written to before the wait.

Wrong arguments (row counts that do not add up, a dtype outside `DTYPES`, a sum of bool) raise `ValueError` at
the start half, on the rank that passed them; what the network does wrong raises `TransportError`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from moec.runtime.errors import ExitCode, RuntimeFailure

DTYPES = (
    torch.float32, torch.float64, torch.bfloat16, torch.float16,
    torch.int64, torch.int32, torch.uint8, torch.bool,
)  # fmt: skip
"""Every dtype a transport moves. Sums are defined for all but bool; those of bfloat16 and float16 are made in
float32 and rounded once."""


class TransportError(RuntimeFailure):
    """A collective failed or the network cannot be set up; the message names the operation."""

    exit_code = ExitCode.LOST_PEER


class Handle(Protocol):
    """A collective under way."""

    def wait(self) -> Tensor:
        """Block until it is done and return its result. Called exactly once."""
        ...


class Group(Protocol):
    """The members of one mesh axis that this rank talks to, in axis order."""

    @property
    def size(self) -> int:
        """The number of members."""
        ...

    @property
    def index(self) -> int:
        """This rank's place among them."""
        ...

    def all_gather(self, shard: Tensor) -> Handle:
        """(r, ...) of equal shape on every member -> (n * r, ...), members in order."""
        ...

    def reduce_scatter(self, full: Tensor) -> Handle:
        """(n * r, ...) -> (r, ...): the sum over members of their i-th block."""
        ...

    def all_reduce(self, x: Tensor) -> Handle:
        """Any shape -> the same shape, summed. Bitwise the same on every member."""
        ...

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Handle:
        """(sum(send), ...) -> (sum(receive), ...): the first send[0] rows go to member 0, and so on.

        Any count may be zero. Rows arrive ordered by sending member.
        """
        ...

    def broadcast(self, x: Tensor, root: int) -> Handle:
        """Member `root`'s tensor to all; the others pass one of the same shape and dtype."""
        ...


class Transport(Protocol):
    """One rank's connection to the job."""

    @property
    def name(self) -> str:
        """`self`, `loopback`, `mpi`, `gloo` or `nccl`."""
        ...

    @property
    def library(self) -> str:
        """The software that carries it and its version, for messages and records."""
        ...

    @property
    def rank(self) -> int:
        """This process among all of the job, from 0."""
        ...

    @property
    def world(self) -> int:
        """The number of ranks of the job."""
        ...

    @property
    def device(self) -> torch.device:
        """Where the tensors of all collectives are."""
        ...

    def groups(self, axes: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Group]:
        """Create and warm this rank's group for every axis.

        `axes` maps an axis name to a partition of all ranks into groups (each a sequence of world ranks in
        axis order, all of one size); it is equal on all ranks, and so is the order of its keys.
        """
        ...

    def exchange(self, data: bytes) -> list[bytes]:
        """Everybody's bytes, by rank: control messages, not tensors. Also a barrier, without a time-out."""
        ...

    def last_words(self, data: bytes, patience_s: float) -> list[bytes] | None:
        """Everybody's bytes, all of one length, if all ranks call this within `patience_s` seconds, else
        None.

        For a rank that fails, to find out whether all do. It disturbs no other collective, and works after
        `close`.
        """
        ...

    def abort(self, code: int) -> None:
        """End the whole job with exit code `code`, from any thread, without the help of the other ranks."""
        ...

    def close(self) -> None:
        """Release communicators. Called by all ranks, when nothing is under way."""
        ...
