"""What of the training state each rank writes, as slices of parameters and of their moments.

A slice is a range of flat indices of one parameter, or of one of its moments, so that a checkpoint says
nothing that depends on the layout it was written at. Where ranks hold the same, the buffers are dealt out
among their groups: every element is written once, and every rank writes about as much as the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from moec.runtime.abi.buffers import Buffer, pieces
from moec.runtime.abi.bundle import STATE_PARTS
from moec.runtime.abi.mesh import Mesh
from moec.runtime.errors import InternalError
from moec.runtime.state import parameter_prefix

SAVED_PARTS = tuple(part for part in STATE_PARTS if part != "gradient")
"""Gradients begin at zero in every step, and are not kept."""

_TEXT = re.compile(rf"({'|'.join(SAVED_PARTS)})/(.{{1,900}})\[([0-9]{{1,19}}):([0-9]{{1,19}})\]")


@dataclass(frozen=True, slots=True)
class Slice:
    """`count` elements of `part` of parameter `name`, from flat index `start` on."""

    part: str
    name: str
    start: int
    count: int

    @property
    def stop(self) -> int:
        """The flat index behind the last element."""
        return self.start + self.count

    def __str__(self) -> str:
        """`exp_avg/layers.3.attention.q[0:4096]`: the name of its tensor in a file."""
        return f"{self.part}/{self.name}[{self.start}:{self.stop}]"


def parse_slice(text: str) -> Slice | None:
    """The slice that a text names, which is the text of it; None for any other text."""
    match = _TEXT.fullmatch(text)
    if match is None:
        return None
    found = Slice(match[1], match[2], int(match[3]), int(match[4]) - int(match[3]))
    return found if found.count > 0 and str(found) == text else None


@dataclass(frozen=True, slots=True)
class Held:
    """A slice, and where a rank holds it: in the shard of `state`, from `offset` on."""

    slice: Slice
    state: str
    offset: int


def writers(buffers: Mapping[str, Buffer], mesh: Mesh) -> dict[str, tuple[int, ...]]:
    """State name -> the ranks that write it together: those of one group that holds all of it once."""
    axes = mesh.axes()
    filled = {axis: [0] * len(groups) for axis, groups in axes.items()}
    chosen: dict[str, tuple[int, ...]] = {}
    for state, buffer in buffers.items():
        loads, groups = filled[buffer.owner_axis], axes[buffer.owner_axis]
        least = loads.index(min(loads))
        loads[least] += buffer.shard_numel * (len(SAVED_PARTS) if buffer.trained else 1)
        chosen[state] = groups[least]
    return chosen


def slices_of(
    rank: int, buffers: Mapping[str, Buffer], mesh: Mesh, written_by: Mapping[str, tuple[int, ...]]
) -> dict[str, list[Held]]:
    """File name -> what `rank` writes into it, in order; files without content are left out."""
    files: dict[str, list[Held]] = {}
    for part in SAVED_PARTS:
        held = [
            Held(Slice(part, piece.name, piece.start, piece.count), state, piece.offset)
            for state, buffer in buffers.items()
            if rank in written_by[state] and (buffer.trained or part == "parameter")
            for piece in pieces(buffer, parameter_prefix(state), mesh, rank)
        ]
        if held:
            files[file_name(part, rank)] = held
    return files


def file_name(part: str, rank: int) -> str:
    """`exp_avg-00003.safetensors`."""
    return f"{part}-{rank:05}.safetensors"


def all_slices(buffers: Mapping[str, Buffer], mesh: Mesh) -> dict[str, tuple[Slice, ...]]:
    """File name -> its slices, for the files of all ranks."""
    by_state = writers(buffers, mesh)
    return {
        name: tuple(entry.slice for entry in held)
        for rank in range(mesh.world)
        for name, held in slices_of(rank, buffers, mesh, by_state).items()
    }


def parameters_of(buffers: Mapping[str, Buffer]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Parameter name -> shape, and whether it is trained."""
    found: dict[str, tuple[tuple[int, ...], bool]] = {}
    for state, buffer in buffers.items():
        for slot in buffer.slots:
            for name in slot.names(parameter_prefix(state)):
                if name in found:
                    raise InternalError(f"{state}: {name} is in another buffer, too")
                found[name] = (slot.shape, buffer.trained)
    return found
