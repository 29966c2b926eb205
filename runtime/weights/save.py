"""From the shards of all ranks to weights on disk, written by rank 0.

Values travel to rank 0 alone, from the first group of ranks that owns a buffer, a block at a time and in the
order in which they are written: rank 0 needs two blocks of memory beside its shards, the others one, whatever
the model. So a model that was trained can be saved.

A disk may take longer than a collective may: ranks wait for rank 0 in `Transport.exchange`, which has no
time-out, and start a collective when rank 0 is ready for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from torch import Tensor

from moec.runtime.abi.buffers import Buffer, Piece, pieces
from moec.runtime.abi.mesh import Mesh
from moec.runtime.errors import InternalError
from moec.runtime.state import parameter_prefix
from moec.runtime.transport.api import Group, Transport
from moec.runtime.weights.writer import Blocks, Shape, WeightsWriter

BLOCK = 1 << 25
"""Elements that travel at a time."""


def save_weights(
    directory: Path,
    buffers: Mapping[str, Buffer],
    shards: Mapping[str, Tensor],
    mesh: Mesh,
    groups: Mapping[str, Group],
    transport: Transport,
) -> None:
    """Write all parameters to a weights directory; called by all ranks, with `buffers` in the same order.

    `buffers` and `shards` are by state name, the instance of a region and the name of a buffer:
    `layers.3/matrices`. A shard is this rank's (shard_numel,), on the transport's device; those of a region
    have one dtype. `groups` has the owner axes of the buffers. When it returns, on any rank, the
    weights are complete and on disk. A failure of rank 0 is raised there alone, as every failure of one rank.

    Raises:
        UserError: something else is at `directory` (see `check_replaceable`).
        InputOutputError: writing failed.
        InternalError: the shards do not hold every element of every parameter once.
    """
    regions = _regions(buffers)
    check_coverage(buffers, mesh)
    values = _Values(buffers, shards, mesh, groups, transport)
    if transport.rank == 0:
        with WeightsWriter(directory) as writer:
            for region, states in regions.items():
                shapes = {n: s for state in states for n, s in _held(state, buffers[state], mesh).items()}
                writer.write_region(region, shapes, shards[states[0]].dtype, values.of(states))
    else:
        for states in regions.values():
            for name, _ in values.of(states):
                raise InternalError(f"rank {transport.rank} was sent values of {name}, which are for rank 0")
    transport.exchange(b"")  # nobody goes on before rank 0 is done


def check_coverage(buffers: Mapping[str, Buffer], mesh: Mesh) -> None:
    """The owners' shards hold every element of every parameter once, in the order in which they are saved.

    Raises:
        InternalError: they do not.
    """
    seen: set[str] = set()
    for state, buffer in buffers.items():
        held, named = _held(state, buffer, mesh), dict(_parameters(state, buffer))
        if held != named:
            raise InternalError(
                f"{state}: {min(held.items() ^ named.items())[0]} is not held as its slot says"
            )
        if seen & held.keys():
            raise InternalError(f"{state}: {min(seen & held.keys())} is in another buffer, too")
        seen |= held.keys()


def _parameters(state: str, buffer: Buffer) -> Iterator[tuple[str, Shape]]:
    """(name, shape) of the parameters of a buffer, as its slots have them."""
    for slot in buffer.slots:
        for name in slot.names(parameter_prefix(state)):
            yield name, slot.shape


def _held(state: str, buffer: Buffer, mesh: Mesh) -> dict[str, Shape]:
    """Name -> shape of what the owners' shards hold, in their order, each found to be held whole and once."""
    found: dict[str, Shape] = {}
    name, missing = "", 0
    for owner in _owners(buffer, mesh):
        for piece in pieces(buffer, parameter_prefix(state), mesh, owner):
            if missing == 0 and piece.name not in found:
                name, missing = piece.name, prod(piece.shape)
                found[name] = piece.shape
            if piece.name != name or piece.start + missing != prod(piece.shape) or piece.count > missing:
                raise InternalError(f"{state}: {piece} does not go on where {name} lacks {missing} elements")
            missing -= piece.count
    if missing:
        raise InternalError(f"{state}: {name} lacks {missing} elements")
    return found


def _owners(buffer: Buffer, mesh: Mesh) -> list[int]:
    """The ranks that hold the buffer once, rank 0 among them, in the order in which their shards follow."""

    def place(rank: int) -> tuple[int, int]:
        expert = mesh.index(buffer.expert_axis, rank) if buffer.expert_axis else 0
        return expert, mesh.index(buffer.shard_axis, rank)

    return sorted(_members(buffer, mesh), key=place)


def _members(buffer: Buffer, mesh: Mesh) -> tuple[int, ...]:
    """The same ranks in axis order, as the group of the owner axis has them."""
    return next(group for group in mesh.axes()[buffer.owner_axis] if 0 in group)


@dataclass(frozen=True)
class _Values:
    """The values of all shards, on their way to rank 0."""

    buffers: Mapping[str, Buffer]
    shards: Mapping[str, Tensor]
    mesh: Mesh
    groups: Mapping[str, Group]
    transport: Transport

    def of(self, states: Sequence[str]) -> Blocks:
        """The parameters of some buffers, one after another, on rank 0; elsewhere none comes."""
        for state in states:
            for owner in _owners(self.buffers[state], self.mesh):
                yield from self._of_owner(state, owner)

    def _of_owner(self, state: str, owner: int) -> Blocks:
        """The pieces of the owner's shard; padding stays where it is."""
        held = list(pieces(self.buffers[state], parameter_prefix(state), self.mesh, owner))
        end = max((piece.offset + piece.count for piece in held), default=0)
        for begin in range(0, end, BLOCK):
            block = self.shards[state][begin : min(begin + BLOCK, end)]
            yield from _cut(self._bring(state, block, owner), begin, held)

    def _bring(self, state: str, block: Tensor, owner: int) -> Tensor:
        """The owner's `block` on rank 0, nothing elsewhere; all ranks pass one of the same length.

        An all-to-all in which one member sends, and to one member: the protocol's gather to a single rank.
        """
        rank, members = self.transport.rank, _members(self.buffers[state], self.mesh)
        if owner == 0:
            return block if rank == 0 else block[:0]
        self.transport.exchange(b"")  # rank 0 has written the block before
        if rank not in members:
            return block[:0]
        count = block.numel()
        send = [count if rank == owner and member == 0 else 0 for member in members]
        receive = [count if rank == 0 and member == owner else 0 for member in members]
        group = self.groups[self.buffers[state].owner_axis]
        return group.all_to_all(block[: sum(send)], send, receive).wait()


def _cut(values: Tensor, begin: int, held: list[Piece]) -> Blocks:
    """What `values`, which start at `begin` of a shard, have of its pieces."""
    for piece in held:
        low, high = max(piece.offset, begin), min(piece.offset + piece.count, begin + values.numel())
        if low < high:
            yield piece.name, values[low - begin : high - begin]


def _regions(buffers: Mapping[str, Buffer]) -> dict[str, list[str]]:
    """Instance of a region -> its state names, both in the order of the buffers."""
    regions: dict[str, list[str]] = {}
    for state in buffers:
        region, slash, name = state.partition("/")
        if not (region and slash and name):
            raise InternalError(f"{state!r} is no name of a state: REGION/BUFFER is")
        regions.setdefault(region, []).append(state)
    return regions
