"""`loopback`: many ranks as threads of one process, for tests. No network, same bits on every run.

Each collective is a *meeting* of the members of a group: everybody leaves a call, and the member that arrives
last computes all results, in member order. Because the meetings are in one place, what hangs a real network
is an error here: members that start different collectives, a rank that ends while others wait for it, ranks
that wait for each other in a ring.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from moec.runtime.transport.api import Group, TransportError
from moec.runtime.transport.common import (
    check_broadcast,
    check_exchange,
    check_gather,
    check_reduce,
    check_scatter,
    groups_of,
    own_copy,
    sum_in_order,
)
from moec.runtime.transport.single import SingleGroup

T = TypeVar("T")
CPU = torch.device("cpu")


def run_ranks(world: int, function: Callable[[LoopbackTransport], T]) -> list[T]:
    """Run `function` as every rank of a job, each in a thread, and return the results by rank.

    If a rank raises, the others are woken with a `TransportError` and the first exception is raised here.
    """
    job = _Job(world)
    results: dict[int, T] = {}

    def run(rank: int) -> None:
        try:
            results[rank] = function(LoopbackTransport(job, rank))
        except BaseException as error:  # handed to the caller below, pytest's own exceptions included
            job.fail(f"rank {rank} failed: {type(error).__name__}: {error}", rank, error)
        else:
            job.finish(rank)

    threads = [
        threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(world)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    job.raise_failure()
    return [results[rank] for rank in range(world)]


@dataclass(frozen=True)
class _Call:
    """What one member brings to a meeting. `agreed` must be equal on all members; `data` is its own."""

    operation: str
    agreed: tuple[object, ...]
    data: Any

    def __str__(self) -> str:
        return f"{self.operation}({', '.join(map(str, self.agreed))})"


Combine = Callable[[list[Any]], list[Any]]  # the members' data -> the members' results


@dataclass
class _Meeting:
    """One collective of one group: the calls so far, by member index, and the results once all have come."""

    axis: str
    members: tuple[int, ...]
    number: int
    calls: dict[int, _Call] = field(default_factory=dict)
    results: list[Any] | None = None

    def __str__(self) -> str:
        missing = [rank for index, rank in enumerate(self.members) if index not in self.calls]
        operation = next(iter(self.calls.values()))
        return f"collective {self.number} of {self.axis!r}, {operation}, not started by ranks {missing}"


class _Job:
    """What the ranks share: open meetings, who waits for what, and the failure that ends all."""

    def __init__(self, world: int) -> None:
        self.world = world
        self._changed = threading.Condition()
        self._open: dict[tuple[str, tuple[int, ...], int], _Meeting] = {}
        self._waiting: dict[int, _Meeting] = {}
        self._finished: set[int] = set()
        self._failure: str | None = None
        self._cause: BaseException | None = None

    def post(self, meeting: _Meeting, index: int, call: _Call, combine: Combine) -> _Meeting:
        """Leave a call at the meeting that others know by the same axis, members and number."""
        with self._changed:
            self._raise_if_failed(call.operation)
            key = (meeting.axis, meeting.members, meeting.number)
            meeting = self._open.setdefault(key, meeting)
            self._check_agreement(meeting, index, call)
            meeting.calls[index] = call
            if len(meeting.calls) == len(meeting.members):
                del self._open[key]
                meeting.results = combine([meeting.calls[i].data for i in range(len(meeting.members))])
                self._changed.notify_all()
        return meeting

    def wait(self, meeting: _Meeting, index: int) -> Any:
        """The result of member `index`, once all have come."""
        rank = meeting.members[index]
        with self._changed:
            self._waiting[rank] = meeting
            self._detect_deadlock()
            while meeting.results is None:
                self._raise_if_failed(meeting.calls[index].operation)
                self._changed.wait()
            del self._waiting[rank]
            return meeting.results[index]

    def finish(self, rank: int) -> None:
        """Rank `rank` has returned; whoever waits for it learns that it will not come."""
        with self._changed:
            self._finished.add(rank)
            self._detect_deadlock()

    def fail(self, message: str, rank: int, cause: BaseException | None = None) -> None:
        """End the job: every wait and every start from now on raises. Only the first failure is kept."""
        with self._changed:
            self._finished.add(rank)
            if self._failure is None:
                self._failure, self._cause = message, cause
                if cause is not None:
                    cause.add_note(f"raised on rank {rank} of {self.world}")
            self._changed.notify_all()

    def raise_failure(self) -> None:
        """Raise what ended the job, if anything did."""
        if self._cause is not None:
            raise self._cause
        self._raise_if_failed("")

    def _raise_if_failed(self, operation: str) -> None:
        if self._failure is not None:
            where = f"{operation}: " if operation else ""
            raise TransportError(where + self._failure, operation=operation)

    def _check_agreement(self, meeting: _Meeting, index: int, call: _Call) -> None:
        for other, theirs in meeting.calls.items():
            if (theirs.operation, theirs.agreed) != (call.operation, call.agreed):
                raise TransportError(
                    f"collective {meeting.number} of {meeting.axis!r} is {theirs} on rank "
                    f"{meeting.members[other]} and {call} on rank {meeting.members[index]}",
                    operation=call.operation,
                )

    def _detect_deadlock(self) -> None:
        """Fail if nobody is left who could start what somebody waits for."""
        stuck = {rank: meeting for rank, meeting in self._waiting.items() if meeting.results is None}
        if stuck and len(stuck) + len(self._finished) == self.world and self._failure is None:
            lines = [f"rank {rank} waits for {stuck[rank]}" for rank in sorted(stuck)]
            ended = f" (ended: {sorted(self._finished)})" if self._finished else ""
            self._failure = f"no rank can go on{ended}: " + "; ".join(lines)
            self._changed.notify_all()


@dataclass(frozen=True)
class _Handle:
    """This member's side of a meeting."""

    job: _Job
    meeting: _Meeting
    index: int

    def wait(self) -> Tensor:
        """Block until all members have come and return this member's result."""
        result: Tensor = self.job.wait(self.meeting, self.index)
        return result


class _LoopbackGroup:
    """One rank's end of a group of threads."""

    def __init__(self, job: _Job, axis: str, members: tuple[int, ...], rank: int) -> None:
        self.size = len(members)
        self.index = members.index(rank)
        self._job, self._axis, self._members = job, axis, members
        self._count = 0

    def all_gather(self, shard: Tensor) -> _Handle:
        """(r, ...) -> (n * r, ...)."""
        check_gather(shard, CPU)
        return self._meet("all_gather", (shard.dtype, tuple(shard.shape)), shard.detach(), _gathered)

    def reduce_scatter(self, full: Tensor) -> _Handle:
        """(n * r, ...) -> (r, ...)."""
        check_scatter(full, self.size, CPU)
        return self._meet("reduce_scatter", (full.dtype, tuple(full.shape)), full.detach(), _reduced_blocks)

    def all_reduce(self, x: Tensor) -> _Handle:
        """Any shape -> the same shape."""
        check_reduce(x, CPU)
        return self._meet("all_reduce", (x.dtype, tuple(x.shape)), x.detach(), _reduced)

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> _Handle:
        """(sum(send), ...) -> (sum(receive), ...)."""
        check_exchange(x, send, receive, self.size, self.index, CPU)
        agreed = (x.dtype, ("rows", *x.shape[1:]))
        return self._meet("all_to_all", agreed, (x.detach(), list(send), list(receive)), _exchanged)

    def broadcast(self, x: Tensor, root: int) -> _Handle:
        """Any shape -> the same shape."""
        check_broadcast(x, root, self.size, CPU)
        agreed = (root, x.dtype, tuple(x.shape))
        return self._meet("broadcast", agreed, x.detach(), lambda data: [own_copy(data[root]) for _ in data])

    def exchange(self, data: bytes) -> list[bytes]:
        """Every member's bytes, in member order."""
        meeting = self._meet("exchange", (), data, lambda parts: [list(parts) for _ in parts])
        result: list[bytes] = self._job.wait(meeting.meeting, self.index)
        return result

    def _meet(self, operation: str, agreed: tuple[object, ...], data: Any, combine: Combine) -> _Handle:
        meeting = _Meeting(self._axis, self._members, self._count)
        self._count += 1
        meeting = self._job.post(meeting, self.index, _Call(operation, agreed, data), combine)
        return _Handle(self._job, meeting, self.index)


class LoopbackTransport:
    """One rank of a job whose ranks are threads of this process; made by `run_ranks`."""

    name = "loopback"
    library = f"torch {torch.__version__}"
    device = CPU

    def __init__(self, job: _Job, rank: int) -> None:
        self.rank = rank
        self.world = job.world
        self._job = job
        self._everybody = _LoopbackGroup(job, "<world>", tuple(range(job.world)), rank)

    def groups(self, axes: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Group]:
        """This rank's group for every axis."""
        members = groups_of(self.rank, self.world, axes)
        return {axis: self._group(axis, group) for axis, group in members.items()}

    def _group(self, axis: str, members: tuple[int, ...]) -> Group:
        if len(members) == 1:
            return SingleGroup(self.device)
        return _LoopbackGroup(self._job, axis, members, self.rank)

    def exchange(self, data: bytes) -> list[bytes]:
        """Everybody's bytes, by rank."""
        return self._everybody.exchange(data)

    def last_words(self, data: bytes, patience_s: float) -> list[bytes] | None:
        """None: `run_ranks` hands failures to its caller."""
        return None

    def abort(self, code: int) -> None:
        """Wake every other rank with an error; this process lives on."""
        self._job.fail(f"rank {self.rank} ended the job with exit code {code}", self.rank)

    def close(self) -> None:
        """Nothing to release."""


def _gathered(shards: list[Tensor]) -> list[Tensor]:
    return [_joined(shards) for _ in shards]


def _reduced_blocks(fulls: list[Tensor]) -> list[Tensor]:
    blocks = [full.chunk(len(fulls)) if len(full) else [full] * len(fulls) for full in fulls]
    return [sum_in_order([theirs[index] for theirs in blocks]) for index in range(len(fulls))]


def _reduced(tensors: list[Tensor]) -> list[Tensor]:
    total = sum_in_order(tensors)
    return [own_copy(total) for _ in tensors]


def _exchanged(calls: list[tuple[Tensor, list[int], list[int]]]) -> list[Tensor]:
    for sender, (_, send, _) in enumerate(calls):
        for receiver, (_, _, receive) in enumerate(calls):
            if send[receiver] != receive[sender]:
                raise TransportError(
                    f"all_to_all: member {sender} sends {send[receiver]} rows to member {receiver}, "
                    f"which expects {receive[sender]}",
                    operation="all_to_all",
                )
    blocks = [torch.split(x, send) for x, send, _ in calls]
    return [_joined([theirs[receiver] for theirs in blocks]) for receiver in range(len(calls))]


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return own_copy(torch.cat(list(parts)))
