"""From weights that one rank can read into the shards of all."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import torch
from torch import Tensor

from moec.runtime.abi.buffers import Buffer, Piece, pieces
from moec.runtime.state import TrainState, parameter_prefix
from moec.runtime.transport.api import Group

from .stored import StoredTensors

BLOCK = 1 << 25
"""Elements that are sent at a time, to all owners together."""

_Owners = dict[str, list[tuple[int, Piece]]]
"""Parameter name -> (rank, what that has of it)."""


def spread(reader: StoredTensors | None, state: TrainState, group: Group, device: torch.device) -> None:
    """Fill the parameters of all ranks; `group` has all of them in order, and its first has the `reader`.

    Tensor by tensor, in blocks: rank 0 holds one, and what it sends of it, beside its own shards; no other
    holds more than its own.

    Raises:
        IntegrityError: a tensor has changed since it was checked.
        InputOutputError: reading failed.
    """
    for name, buffer in state.buffers.items():
        ranks = range(group.size) if reader is not None else (state.rank,)
        owners = _owners(name, state, ranks)
        for parameter, begin, end in _blocks(name, buffer, state):
            there = owners.get(parameter, [])
            values = None
            if reader is not None:
                values = reader.read(parameter, begin, end - begin).to(device, state.dtype)
            arrived = _send(values, there, begin, end, group, state, device)
            for rank, piece in there:
                if rank == state.rank:
                    _keep(arrived, name, piece, max(begin, piece.start), state)


def _owners(name: str, state: TrainState, ranks: range | tuple[int, ...]) -> _Owners:
    owners: _Owners = {}
    for rank in ranks:
        found = (
            state.pieces(name)
            if rank == state.rank
            else pieces(state.buffers[name], parameter_prefix(name), state.mesh, rank)
        )
        for piece in found:
            owners.setdefault(piece.name, []).append((rank, piece))
    return owners


def _blocks(name: str, buffer: Buffer, state: TrainState) -> Iterator[tuple[str, int, int]]:
    """(parameter, begin, end) of every block that is sent, the same on all ranks."""
    size = max(1, BLOCK // state.mesh.size(buffer.replica_axis))
    for slot in buffer.slots:
        for parameter in slot.names(parameter_prefix(name)):
            numel = prod(slot.shape)
            for begin in range(0, numel, size):
                yield parameter, begin, min(begin + size, numel)


def _send(
    values: Tensor | None,
    owners: list[tuple[int, Piece]],
    begin: int,
    end: int,
    group: Group,
    state: TrainState,
    device: torch.device,
) -> Tensor:
    """What this rank has of the block."""
    send, receive = [0] * group.size, [0] * group.size
    parts = [torch.empty(0, dtype=state.dtype, device=device)]
    for rank, piece in owners:
        low, high = max(begin, piece.start), min(end, piece.start + piece.count)
        if low >= high:
            continue
        if values is not None:
            send[rank] = high - low
            parts.append(values[low - begin : high - begin])
        if rank == state.rank:
            receive[0] = high - low
    return group.all_to_all(torch.cat(parts), send, receive).wait()


def _keep(arrived: Tensor, name: str, piece: Piece, start: int, state: TrainState) -> None:
    first, count = start - piece.start, arrived.numel()
    if count:
        state.parameters[name][piece.offset + first : piece.offset + first + count].copy_(arrived)
        state.written.add(name, piece, first, count)
