"""That every parameter was initialised: each of its elements once, by every rank that holds it.

Whoever fills parameters notes what was written, and where. The ranks compare their notes without sending
them: h(name, place) is a random-looking number, and a rank's ranges of a state come to the sum of h at their
ends less h at their beginnings, modulo 2^64. Over ranks whose ranges meet and do not overlap, all that lies
between cancels, and the sum is that of whole parameters. A missing or doubled piece leaves a rest, but for a
chance of 2^-64. Only then are the ranges sent, to say what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise
from math import prod

from .abi.buffers import Buffer, Piece
from .abi.mesh import Mesh
from .errors import InternalError
from .transport.api import Transport

_WORD_BYTES = 8
_MODULUS = 1 << (8 * _WORD_BYTES)


class InitialisationError(InternalError):
    """Elements of a parameter that were never written, or more than once."""

    on_every_rank = True


@dataclass(frozen=True, slots=True)
class Range:
    """Elements `start` to `stop` of parameter `name`, written from element `offset` of a shard on."""

    name: str
    start: int
    stop: int
    offset: int


class Written:
    """What was written of a rank's parameters, by state."""

    def __init__(self) -> None:
        self.ranges: dict[str, list[Range]] = {}

    def add(self, state: str, piece: Piece, begin: int, count: int) -> None:
        """`count` elements of a piece are in their place, from its element `begin` on."""
        start = piece.start + begin
        self.ranges.setdefault(state, []).append(
            Range(piece.name, start, start + count, piece.offset + begin)
        )

    def clear(self) -> None:
        """Begin anew."""
        self.ranges.clear()


def check_written(
    written: Written,
    buffers: Mapping[str, Buffer],
    mesh: Mesh,
    transport: Transport,
    prefixes: Mapping[str, str],
) -> None:
    """Compare what all ranks wrote with what the model has. `prefixes`: of the parameters of each state.

    Raises:
        InitialisationError: on every rank; it names the first parameter and range that are missing or
            doubled, and the ranks.
    """
    overlap = next(_overlaps(written, buffers), "")
    sums = [_sum(written.ranges.get(state, ())) for state in buffers]
    told = transport.exchange(json.dumps([overlap, sums]).encode())
    answers = [json.loads(answer) for answer in told]
    for rank, (fault, _) in enumerate(answers):
        if fault:
            raise InitialisationError(f"rank {rank} {fault}")
    for index, (state, buffer) in enumerate(buffers.items()):
        expected = _sum(_whole(buffer, prefixes[state]))
        for ranks in _replicas(buffer, mesh):
            if sum(answers[rank][1][index] for rank in ranks) % _MODULUS != expected:
                _explain(written, state, buffer, ranks, prefixes[state], transport)


def _whole(buffer: Buffer, prefix: str) -> Iterator[Range]:
    """All that a buffer has of parameters."""
    for slot in buffer.slots:
        for name in slot.names(prefix):
            yield Range(name, 0, prod(slot.shape), 0)


def _sum(ranges: Iterable[Range]) -> int:
    return sum(_end(r.name, r.stop) - _end(r.name, r.start) for r in ranges) % _MODULUS


def _end(name: str, place: int) -> int:
    digest = blake2b(f"{place} {name}".encode(), digest_size=_WORD_BYTES).digest()
    return int.from_bytes(digest, "little")


def _replicas(buffer: Buffer, mesh: Mesh) -> list[list[int]]:
    """The ranks, by copies of the buffer: those of one copy hold all of it together."""
    copies: dict[int, list[int]] = {}
    for rank in range(mesh.world):
        copies.setdefault(mesh.index(buffer.replica_axis, rank), []).append(rank)
    return list(copies.values())


def _overlaps(written: Written, buffers: Mapping[str, Buffer]) -> Iterator[str]:
    """Places of this rank's shards that were written twice, or do not exist."""
    for state, ranges in written.ranges.items():
        ordered = sorted(ranges, key=lambda r: r.offset)
        for one, following in pairwise(ordered):
            if one.offset + one.stop - one.start > following.offset:
                yield f"wrote {following.name} over {one.name} in its shard of {state}"
        if ordered and ordered[-1].offset + ordered[-1].stop - ordered[-1].start > buffers[state].shard_numel:
            yield f"wrote {ordered[-1].name} past the end of its shard of {state}"


def _explain(
    written: Written, state: str, buffer: Buffer, ranks: list[int], prefix: str, transport: Transport
) -> None:
    """Send the ranges of one state, and say what is wrong with those of `ranks`."""
    mine = [(r.name, r.start, r.stop) for r in written.ranges.get(state, ())]
    answers = [json.loads(answer) for answer in transport.exchange(json.dumps(mine).encode())]
    found: dict[str, list[tuple[int, int, int]]] = {}
    for rank in ranks:
        for name, start, stop in answers[rank]:
            found.setdefault(name, []).append((start, stop, rank))
    for slot in buffer.slots:
        for name in slot.names(prefix):
            if fault := _fault(sorted(found.pop(name, [])), prod(slot.shape)):
                raise InitialisationError(f"{name}: {fault}")
    strange = next(iter(found), "")
    raise InitialisationError(f"{strange!r} was initialised in {state}, which has no such parameter")


def _fault(ranges: list[tuple[int, int, int]], numel: int) -> str:
    """What is wrong with sorted (start, stop, rank) of a parameter of `numel` elements, "" if nothing is."""
    end, last = 0, -1
    for start, stop, rank in ranges:
        if start > end:
            return f"elements {end} to {start} were initialised by no rank"
        if start < end:
            return f"elements {start} to {min(stop, end)} were initialised twice, by ranks {last} and {rank}"
        end, last = stop, rank
    if end < numel:
        return f"elements {end} to {numel} were initialised by no rank"
    return f"it has {numel} elements, and {end} were initialised" if end > numel else ""
