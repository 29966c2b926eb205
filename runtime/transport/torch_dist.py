"""`gloo` and `nccl`: the process groups of torch.distributed. One class; the backend's name is its only
difference, with the device and with who adds up a reduce-scatter.

gloo is here so that a machine without a GPU runs the code that NCCL needs: what moves bytes is one path for
both. Tensors move as bytes, since gloo knows neither bool nor uneven exchanges of every dtype. Sums of
bfloat16 and float16 are made in a float32 copy. all_reduce is the backend's: both reduce every element along
one path and send the result to all members, so that it has the same bits everywhere, in an order of the
backend's choice. reduce_scatter is NCCL's own, or for gloo, which has a slow one, an all-to-all and a local
sum in member order.

A wait makes the current stream wait for NCCL, not the host; for gloo it blocks the host.

Ranks meet at a TCPStore of rank 0 on a port that the system chooses; MPI tells the others where. A fixed port
could join the ranks of two jobs of one machine; a random word in the store makes sure that it is ours. Under
torchrun, the store is the one that torchrun's variables name.
"""

from __future__ import annotations

import atexit
import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from moec.runtime.errors import EnvironmentMismatch
from moec.runtime.launch import current_job
from moec.runtime.transport.api import Group, Handle, Transport, TransportError
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
    wide_copy,
)
from moec.runtime.transport.single import SingleGroup, SingleTransport

_STORE_WORD = "moec/job"
_NO_TIMEOUT = timedelta(days=1000)


@dataclass(frozen=True)
class _Flight:
    """A collective under way: torch's work, the buffers it uses, and what to make of them at the end."""

    operation: str
    work: Any
    buffers: tuple[Tensor, Tensor]
    finish: Callable[[], Tensor]

    def wait(self) -> Tensor:
        """Block this thread (gloo) or the current stream (nccl) until it is done, and return the result."""
        with Translated(self.operation, RuntimeError):
            self.work.wait()
        return self.finish()


class TorchGroup:
    """The members of one axis, at least two, as a process group.

    `native_sums` leaves the sum of a reduce-scatter to the backend; otherwise it is made here, in member
    order.
    """

    def __init__(self, group: dist.ProcessGroup, device: torch.device, native_sums: bool) -> None:
        self.size = group.size()
        self.index = group.rank()
        self._group, self._device, self._native_sums = group, device, native_sums

    def all_gather(self, shard: Tensor) -> Handle:
        """(r, ...) -> (n * r, ...)."""
        check_gather(shard, self._device)
        out = shard.new_empty((self.size * shard.shape[0], *shard.shape[1:]))
        sent = shard.detach().contiguous()
        if not shard.numel():
            return Ready(out)
        return self._start(
            "all_gather",
            lambda: dist.all_gather_single(_bytes(out), _bytes(sent), group=self._group, async_op=True),
            (sent, out),
            lambda: out,
        )

    def reduce_scatter(self, full: Tensor) -> Handle:
        """(n * r, ...) -> (r, ...)."""
        check_scatter(full, self.size, self._device)
        if not full.numel():
            return Ready(full.new_empty((full.shape[0] // self.size, *full.shape[1:])))
        return self._native_blocks(full) if self._native_sums else self._summed_blocks(full)

    def all_reduce(self, x: Tensor) -> Handle:
        """Any shape -> the same shape."""
        check_reduce(x, self._device)
        total = wide_copy(x)
        if not x.numel():
            return Ready(total.to(x.dtype))
        return self._start(
            "all_reduce",
            lambda: dist.all_reduce(total, group=self._group, async_op=True),
            (total, total),
            lambda: total.to(x.dtype),
        )

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Handle:
        """(sum(send), ...) -> (sum(receive), ...)."""
        check_exchange(x, send, receive, self.size, self.index, self._device)
        out = x.new_empty((sum(receive), *x.shape[1:]))
        if not row_bytes(x):
            return Ready(out)
        return self._exchange("all_to_all", x.detach().contiguous(), send, receive, out, lambda: out)

    def broadcast(self, x: Tensor, root: int) -> Handle:
        """Any shape -> the same shape."""
        check_broadcast(x, root, self.size, self._device)
        out = own_copy(x) if root == self.index else x.new_empty(x.shape)
        if not x.numel():
            return Ready(out)
        return self._start(
            "broadcast",
            lambda: dist.broadcast(_bytes(out), group_src=root, group=self._group, async_op=True),
            (out, out),
            lambda: out,
        )

    def warm(self) -> None:
        """Make every connection, so that the first step does not pay for it."""
        one = torch.ones(self.size, device=self._device)
        each = [1] * self.size
        self.all_to_all(one, each, each).wait()
        self.all_reduce(one).wait()

    def _native_blocks(self, full: Tensor) -> Handle:
        wide = wide_copy(full)
        out = wide.new_empty((full.shape[0] // self.size, *full.shape[1:]))
        return self._start(
            "reduce_scatter",
            lambda: dist.reduce_scatter_single(out, wide, group=self._group, async_op=True),
            (wide, out),
            lambda: out.to(full.dtype),
        )

    def _summed_blocks(self, full: Tensor) -> Handle:
        rows = full.shape[0] // self.size
        received = full.new_empty((self.size, rows, *full.shape[1:]))
        counts = [rows] * self.size
        sent = full.detach().contiguous()
        return self._exchange(
            "reduce_scatter", sent, counts, counts, received, lambda: sum_in_order(received.unbind())
        )

    def _exchange(
        self,
        operation: str,
        sent: Tensor,
        send: Sequence[int],
        receive: Sequence[int],
        out: Tensor,
        finish: Callable[[], Tensor],
    ) -> Handle:
        """Rows of `sent` to the members, their rows into `out`."""
        row = row_bytes(sent)
        outgoing, incoming = [row * rows for rows in send], [row * rows for rows in receive]
        return self._start(
            operation,
            lambda: dist.all_to_all_single(
                _bytes(out), _bytes(sent), incoming, outgoing, group=self._group, async_op=True
            ),
            (sent, out),
            finish,
        )

    def _start(
        self,
        operation: str,
        start: Callable[[], Any],
        buffers: tuple[Tensor, Tensor],
        finish: Callable[[], Tensor],
    ) -> Handle:
        with Translated(operation, RuntimeError):
            return _Flight(operation, start(), buffers, finish)


class TorchTransport:
    """A rank of a torch.distributed job.

    `control` is the way the ranks met, and the way to end the job. There is one such transport at a time in a
    process, since torch.distributed has one world.
    """

    def __init__(
        self,
        backend: str,
        *,
        rank: int,
        world: int,
        store: Store,
        device: torch.device,
        timeout_s: float,
        control: Transport,
        native_sums: bool | None = None,
    ) -> None:
        self.name, self.rank, self.world, self.device = backend, rank, world, device
        self.library = f"{backend} of torch {torch.__version__}, joined through {control.library}"
        self._timeout = timedelta(seconds=timeout_s)
        self._control = control
        self._native_sums = backend == "nccl" if native_sums is None else native_sums
        if dist.is_initialized():
            raise EnvironmentMismatch("torch.distributed is already in use in this process")
        with Translated("connect", RuntimeError):
            # gloo in any case: messages are on the host. They have no time-out, as those of MPI have none:
            # a rank waits here while another reads its data or writes the weights, however long that takes.
            dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=_NO_TIMEOUT)
        current_job.set(self)
        # gloo's threads crash in an interpreter that ends while they let go of a tensor.
        atexit.register(self._destroy)

    def groups(self, axes: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Group]:
        """Create and warm this rank's process group for every axis, none for axes of size one."""
        members = groups_of(self.rank, self.world, axes)
        return {axis: self._make_group(axis, group) for axis, group in members.items()}

    def _make_group(self, axis: str, members: tuple[int, ...]) -> Group:
        if len(members) == 1:
            return SingleGroup(self.device)
        with Translated(f"groups: axis {axis!r}", RuntimeError):
            group = dist.new_group(
                list(members),
                timeout=self._timeout,
                backend=self.name,
                use_local_synchronization=True,  # the other groups of the axis are none of our business
                sort_ranks=False,
            )
        made = TorchGroup(group, self.device, self._native_sums)
        made.warm()
        return made

    def exchange(self, data: bytes) -> list[bytes]:
        """Everybody's bytes, by rank; padded to the longest on the way."""
        with Translated("exchange", RuntimeError):
            sizes = self._gather(torch.tensor([len(data)])).flatten().tolist()
            padded = torch.zeros(max(*sizes, 1), dtype=torch.uint8)
            padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else 0
            rows = self._gather(padded)
        return [row[:size].numpy().tobytes() for row, size in zip(rows, sizes, strict=True)]

    def _gather(self, x: Tensor) -> Tensor:
        """(k,) of every rank -> (world, k), on the host."""
        out = x.new_empty((self.world, *x.shape))
        dist.all_gather_single(out.view(-1), x)
        return out

    def last_words(self, data: bytes, patience_s: float) -> list[bytes] | None:
        """Over MPI, if the ranks met there; under torchrun None, its agent stops all when one ends."""
        return self._control.last_words(data, patience_s) if self._control.world == self.world else None

    def abort(self, code: int) -> None:
        """End the job through MPI; under torchrun, end this process, and the agent ends the rest."""
        self._control.abort(code)

    def close(self) -> None:
        """Destroy the process groups."""
        self.exchange(b"")  # rank 0 has the store: nobody leaves before all are done
        self._destroy()
        self._control.close()

    def _destroy(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def connect_over(
    control: Transport, backend: str, *, local_rank: int, timeout_s: float, native_sums: bool | None = None
) -> TorchTransport:
    """Join the ranks of `control` (mpi, or self) into a torch.distributed job."""
    return TorchTransport(
        backend,
        rank=control.rank,
        world=control.world,
        store=_store_over(control, timeout_s),
        device=device_for(backend, local_rank),
        timeout_s=timeout_s,
        control=control,
        native_sums=native_sums,
    )


def connect_torchrun(backend: str, *, local_rank: int, timeout_s: float) -> TorchTransport:
    """Join the ranks that torchrun started, at the store that its variables name."""
    with Translated("connect", RuntimeError):
        store, rank, world = next(rendezvous("env://", timeout=timedelta(seconds=timeout_s)))
    return TorchTransport(
        backend,
        rank=rank,
        world=world,
        store=store,
        device=device_for(backend, local_rank),
        timeout_s=timeout_s,
        control=SingleTransport(),
    )


def device_for(backend: str, local_rank: int) -> torch.device:
    """gloo: the CPU. nccl: the GPU of this rank of the machine, modulo those that the process sees."""
    if backend == "gloo":
        return torch.device("cpu")
    if not (dist.is_nccl_available() and torch.cuda.is_available()):
        raise EnvironmentMismatch("the nccl transport needs a GPU and a torch built for it; use gloo or mpi")
    device = torch.device("cuda", local_rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def _store_over(control: Transport, timeout_s: float) -> Store:
    """A store on rank 0, joined by all; its address and a word to know it by travel over `control`."""
    timeout = timedelta(seconds=timeout_s)
    host = _address_of_rank_0(control)
    if control.rank == 0:
        store = TCPStore(host, 0, control.world, True, timeout, wait_for_workers=False)
        word = secrets.token_hex(16)
        store.set(_STORE_WORD, word)
        control.exchange(f"{host} {store.port} {word}".encode())
        return store
    host, port, word = control.exchange(b"")[0].decode().split()
    with Translated("connect", RuntimeError):
        store = TCPStore(host, int(port), control.world, False, timeout, wait_for_workers=False)
        if store.get(_STORE_WORD).decode() != word:
            raise TransportError(f"connect: the store at {host}:{port} belongs to another job")
    return store


def _address_of_rank_0(control: Transport) -> str:
    """Where the others reach rank 0: by loopback on one machine, else at its address towards another."""
    me = socket.gethostname()
    hosts = [name.decode() for name in control.exchange(me.encode())]
    others = [host for host in hosts if host != hosts[0]]
    if not others:
        if sys.platform == "linux":
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        return "127.0.0.1"
    return address_towards(others[0]) if control.rank == 0 else ""


def address_towards(host: str) -> str:
    """This machine's address on the route to `host`; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise EnvironmentMismatch(
            f"rank 0 finds no route to {host}, where another rank runs: {error}"
        ) from error


def _bytes(x: Tensor) -> Tensor:
    """A contiguous tensor as its bytes, (numel * element size,) uint8, in place."""
    # A dim of size one counts as contiguous with any stride, and view(-1) would keep that.
    return x.as_strided((x.numel(),), (1,)).view(torch.uint8)
