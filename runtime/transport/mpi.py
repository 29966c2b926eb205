"""`mpi`: MPI moves the bytes, this file adds them up.

Three MPI collectives are used, all nonblocking: Iallgather(v), Ialltoall(v) and Ibcast. None of MPI's
reductions is: the standard promises neither an order of summation nor equal bits on all members, knows no
bfloat16, and Open MPI's reduce-scatter is several times slower than moving blocks and adding them here. So

- reduce_scatter is an all-to-all of blocks and a local sum in member order, which takes one buffer of the
  size of the input until the wait;
- all_reduce of a small tensor, or between two members, is an all-gather and a local sum of everything;
- all_reduce of a large tensor is an all-to-all of blocks, a local sum of one block, and an all-gather of the
  sums (`_BlockSum`).

The bits are then those of `loopback`, whatever the MPI library, and the same on every member.

Buffers are passed by address, without a copy, as rows: a datatype of one row's bytes, and counts in rows, so
that collectives may exceed 2^31 bytes. More than 2^31 - 1 rows, or bytes a row, are refused. How much moves
between start and wait is up to the library; most make progress only inside MPI calls.

Tensors on a GPU need an MPI that takes GPU pointers (`gpu_aware`). They are passed as they are, once the
current stream has run dry, since MPI knows nothing of streams. Any other MPI is refused, rather than staged
through the host.
"""

from __future__ import annotations

import os
import sys
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from moec.runtime.errors import EnvironmentMismatch
from moec.runtime.launch import current_job
from moec.runtime.transport.api import Group, Handle, TransportError
from moec.runtime.transport.common import (
    Ready,
    Translated,
    check_broadcast,
    check_exchange,
    check_gather,
    check_reduce,
    check_scatter,
    groups_of,
    own_copy,
    row_bytes,
    sum_in_order,
)
from moec.runtime.transport.mpi_library import (
    FAULT_TOLERANT,
    MPI,
    gpu_aware,
    initialize,
    library,
    memory,
)
from moec.runtime.transport.single import SingleGroup

LARGEST_COUNT = 2**31 - 1

WHOLE_GATHER_BYTES = 64 * 1024
"""all_reduce gathers whole tensors, rather than sums of blocks, up to this many bytes over all members."""


class _Progress:
    """What is under way on this rank, and the waiting for it.

    A block sum has a second half that somebody must start when the first is over, also while this rank waits
    for something else: the members that are ahead need it. So every wait of the transport is made here.
    """

    def __init__(self) -> None:
        self.flights: set[Handle] = set()  # keeps buffers alive until the wait, whoever drops the handle
        self.first_halves: list[_BlockSum] = []  # in the order of their starts
        self._row_types: dict[int, MPI.Datatype] = {}

    def finish(self, request: MPI.Request) -> None:
        """Block until `request` is done."""
        while self.first_halves and not request.Test():
            self.advance()
            os.sched_yield()
        request.Wait()  # returns at once if Test has said yes

    def advance(self) -> None:
        """Start the second halves that can be; in order within a group, since they share a communicator."""
        behind: set[MpiGroup] = set()
        for block_sum in list(self.first_halves):
            if block_sum.group not in behind and block_sum.first_half.Test():
                self.first_halves.remove(block_sum)
                block_sum.start_second_half()
            else:
                behind.add(block_sum.group)

    def row_type(self, row_bytes: int, rows: int) -> MPI.Datatype:
        """A datatype of `row_bytes` bytes, of which `rows` are to be moved."""
        if max(row_bytes, rows) > LARGEST_COUNT:
            raise ValueError(f"{rows} rows of {row_bytes} bytes; MPI counts to {LARGEST_COUNT}")
        if row_bytes not in self._row_types:
            self._row_types[row_bytes] = MPI.BYTE.Create_contiguous(row_bytes).Commit()
        return self._row_types[row_bytes]

    def close(self) -> None:
        """Free the datatypes; nothing may be under way."""
        if self.flights:
            raise TransportError(f"close: {len(self.flights)} collectives were started and never waited for")
        for datatype in self._row_types.values():
            datatype.Free()
        self._row_types.clear()


@dataclass(eq=False)
class _Flight:
    """A collective of one MPI call: its request, the buffers it uses, and what to make of them at the end."""

    progress: _Progress
    operation: str
    request: MPI.Request
    buffers: tuple[Tensor, Tensor]
    finish: Callable[[], Tensor]

    def __post_init__(self) -> None:
        self.progress.flights.add(self)

    def wait(self) -> Tensor:
        """Block until MPI is done, and return the result."""
        with Translated(self.operation, MPI.Exception):
            self.progress.finish(self.request)
        self.progress.flights.remove(self)
        return self.finish()


class _BlockSum:
    """An all-reduce of a large tensor: an all-to-all of blocks, my block's sum, an all-gather of the sums.

    Moves 2 (n - 1) / n of the tensor, and no member waits for another to come to its wait: `_Progress` starts
    the second half on every member during whatever wait comes first. It has a communicator of its own, since
    its place among the other collectives of the group differs between members.
    """

    def __init__(self, group: MpiGroup, x: Tensor) -> None:
        self.group = group
        self._shape, self._sent = x.shape, x.view(-1)
        whole, extra = divmod(x.numel(), group.size)
        self._sizes = [whole + (member < extra) for member in range(group.size)]
        self._mine = self._sizes[group.index]
        self._received = x.new_empty((group.size, self._mine))
        self._sum = self._out = x.new_empty(0)
        self._second: MPI.Request | None = None
        self._unit = group.progress.row_type(x.element_size(), x.numel() + group.size)
        group.settle()
        self.first_half = group.comm.Ialltoallv(
            [memory(self._sent), self._sizes, self._unit],
            [memory(self._received), [self._mine] * group.size, self._unit],
        )
        group.progress.flights.add(self)
        group.progress.first_halves.append(self)

    def start_second_half(self) -> None:
        """Add up my block and start to gather everybody's."""
        self._sum = sum_in_order(self._received.unbind())
        self._received = self._out  # the shares are not needed any more
        self._out = self._sum.new_empty(sum(self._sizes))
        self.group.settle()
        self._second = self.group.second_comm.Iallgatherv(
            [memory(self._sum), self._mine, self._unit],
            [memory(self._out), self._sizes, self._unit],
        )

    def wait(self) -> Tensor:
        """Block until all sums are here."""
        progress = self.group.progress
        with Translated("all_reduce", MPI.Exception):
            while self._second is None:
                progress.advance()
                os.sched_yield()
            progress.finish(self._second)
        progress.flights.remove(self)
        return self._out.view(self._shape)


class MpiGroup:
    """The members of one axis, at least two, on two communicators of their own."""

    def __init__(
        self, comm: MPI.Comm, second_comm: MPI.Comm, device: torch.device, progress: _Progress
    ) -> None:
        self.size = comm.size
        self.index = comm.rank
        self.comm, self.second_comm, self.progress = comm, second_comm, progress
        self._device = device

    def all_gather(self, shard: Tensor) -> Handle:
        """(r, ...) -> (n * r, ...)."""
        check_gather(shard, self._device)
        out = shard.new_empty((self.size * shard.shape[0], *shard.shape[1:]))
        return self._gather("all_gather", shard, out, lambda: out)

    def reduce_scatter(self, full: Tensor) -> Handle:
        """(n * r, ...) -> (r, ...), summed in member order."""
        check_scatter(full, self.size, self._device)
        sent = full.detach().contiguous()
        rows = full.shape[0] // self.size
        received = full.new_empty((self.size, rows, *full.shape[1:]))
        if not full.numel():
            return Ready(received[0])
        unit = self.progress.row_type(row_bytes(full), rows)
        return self._start(
            "reduce_scatter",
            lambda: self.comm.Ialltoall([memory(sent), rows, unit], [memory(received), rows, unit]),
            (sent, received),
            lambda: sum_in_order(received.unbind()),
        )

    def all_reduce(self, x: Tensor) -> Handle:
        """Any shape -> the same shape, summed in member order."""
        check_reduce(x, self._device)
        if self.size > 2 and x.numel() * x.element_size() * self.size > WHOLE_GATHER_BYTES:
            with Translated("all_reduce", MPI.Exception):
                return _BlockSum(self, x.detach().contiguous())
        received = x.new_empty((self.size, *x.shape))
        return self._gather("all_reduce", x, received, lambda: sum_in_order(received.unbind()))

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Handle:
        """(sum(send), ...) -> (sum(receive), ...)."""
        check_exchange(x, send, receive, self.size, self.index, self._device)
        sent = x.detach().contiguous()
        out = x.new_empty((sum(receive), *x.shape[1:]))
        if not row_bytes(x):
            return Ready(out)
        unit = self.progress.row_type(row_bytes(x), max(x.shape[0], out.shape[0]))
        # Lists, since mpi4py takes a tuple of two for counts and displacements.
        outgoing, incoming = [memory(sent), list(send), unit], [memory(out), list(receive), unit]
        return self._start(
            "all_to_all", lambda: self.comm.Ialltoallv(outgoing, incoming), (sent, out), lambda: out
        )

    def broadcast(self, x: Tensor, root: int) -> Handle:
        """Any shape -> the same shape."""
        check_broadcast(x, root, self.size, self._device)
        out = own_copy(x) if root == self.index else x.new_empty(x.shape)
        if not x.numel():
            return Ready(out)
        rows = x.shape[0] if x.dim() else 1
        unit = self.progress.row_type(row_bytes(x), rows)
        return self._start(
            "broadcast", lambda: self.comm.Ibcast([memory(out), rows, unit], root), (out, out), lambda: out
        )

    def settle(self) -> None:
        """Make the memory that MPI is about to use ready: what a stream has still to do to it is done."""
        if self._device.type != "cpu":
            torch.accelerator.current_stream(self._device).synchronize()

    def warm(self) -> None:
        """Make every connection, so that the first step does not pay for it."""
        one = torch.ones(self.size, device=self._device)
        each = [1] * self.size
        self.all_to_all(one, each, each).wait()
        self.second_comm.Barrier()

    def close(self) -> None:
        """Free both communicators."""
        self.comm.Free()
        self.second_comm.Free()

    def _gather(self, operation: str, x: Tensor, out: Tensor, finish: Callable[[], Tensor]) -> Handle:
        """Everybody's `x`, in member order, into `out`."""
        sent = x.detach().contiguous()
        if not x.numel():
            return Ready(finish())
        rows = x.shape[0] if x.dim() else 1
        unit = self.progress.row_type(row_bytes(x), rows)
        return self._start(
            operation,
            lambda: self.comm.Iallgather([memory(sent), rows, unit], [memory(out), rows, unit]),
            (sent, out),
            finish,
        )

    def _start(
        self,
        operation: str,
        start: Callable[[], MPI.Request],
        buffers: tuple[Tensor, Tensor],
        finish: Callable[[], Tensor],
    ) -> _Flight:
        self.settle()
        with Translated(operation, MPI.Exception):
            return _Flight(self.progress, operation, start(), buffers, finish)


class MpiTransport:
    """A rank of an MPI job. `device` other than the CPU needs an MPI that takes its pointers.

    `survives`: the transport of the job before a rank was lost, whose buffers may still be written to.
    """

    name = "mpi"

    def __init__(self, device: torch.device | None = None, survives: MpiTransport | None = None) -> None:
        initialize()
        self.device = device or torch.device("cpu")
        if self.device.type != "cpu" and not gpu_aware():
            raise EnvironmentMismatch(
                f"tensors on {self.device} need a GPU-aware MPI, which this is not: {library()}; "
                "use the nccl transport, or an MPI built for this GPU"
            )
        self.library = library()
        self._before = survives
        whole = MPI.COMM_WORLD if survives is None else survives.left()
        self._comm, self._last_comm = whole.Dup(), whole.Dup()
        self.rank, self.world = self._comm.rank, self._comm.size
        self._progress = _Progress()
        self._groups: list[MpiGroup] = []
        current_job.set(self)

    def groups(self, axes: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Group]:
        """Create and warm this rank's group for every axis: two communicators, or none for size one."""
        members = groups_of(self.rank, self.world, axes)
        with Translated("groups", MPI.Exception):
            return {axis: self._group(group) for axis, group in members.items()}

    def _group(self, members: tuple[int, ...]) -> Group:
        if len(members) == 1:
            return SingleGroup(self.device)
        comm = self._comm.Split(color=members[0], key=members.index(self.rank))
        group = MpiGroup(comm, comm.Dup(), self.device, self._progress)
        group.warm()
        self._groups.append(group)
        return group

    def exchange(self, data: bytes) -> list[bytes]:
        """Everybody's bytes, by rank."""
        with Translated("exchange", MPI.Exception):
            sizes = array("q", [0] * self.world)
            self._progress.finish(self._comm.Iallgather(array("q", [len(data)]), sizes))
            if sum(sizes) > LARGEST_COUNT:
                raise ValueError(f"exchange: {sum(sizes)} bytes in all; MPI counts to {LARGEST_COUNT}")
            received = bytearray(sum(sizes))
            target = [received, sizes.tolist(), MPI.BYTE]
            self._progress.finish(self._comm.Iallgatherv([data, MPI.BYTE], target))
        ends = accumulate(sizes)
        return [bytes(received[end - size : end]) for size, end in zip(sizes, ends, strict=True)]

    def last_words(self, data: bytes, patience_s: float) -> list[bytes] | None:
        """Everybody's bytes if all ranks come in time, on a communicator that nothing else uses."""
        out = bytearray(len(data) * self.world)
        request = self._last_comm.Iallgather([data, MPI.BYTE], [out, len(data), MPI.BYTE])
        self._unanswered = (request, data, out)  # they must live on if others come too late
        deadline = time.monotonic() + patience_s
        while not request.Test():
            if time.monotonic() > deadline:
                return None
            time.sleep(0.001)
        return [bytes(out[start : start + len(data)]) for start in range(0, len(out), len(data))]

    @property
    def can_shrink(self) -> bool:
        """Whether Open MPI was told to outlive a rank: `mpirun --with-ft ulfm`."""
        return self.library.startswith("Open MPI") and os.environ.get(FAULT_TOLERANT, "") in ("1", "true")

    def shrink(self) -> MpiTransport:
        """The transport of the ranks that are left. Whatever is under way on this one ends with an error."""
        with Translated("shrink", MPI.Exception):
            return MpiTransport(self.device, survives=self)

    def left(self) -> MPI.Comm:
        """A communicator of the ranks that are left, after an end to all others of this transport."""
        groups = [comm for group in self._groups for comm in (group.comm, group.second_comm)]
        for comm in (*groups, self._last_comm, self._comm):
            comm.Revoke()
        return self._comm.Shrink()

    def abort(self, code: int) -> None:
        """End the job with `code` through MPI_Abort."""
        sys.stdout.flush()
        sys.stderr.flush()
        MPI.COMM_WORLD.Abort(code)

    def close(self) -> None:
        """Free communicators and datatypes."""
        self._progress.close()
        for group in self._groups:
            group.close()
        self._groups.clear()
        self._comm.Free()
