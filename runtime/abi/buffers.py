"""Parameter buffers: how the parameters of a region lie in flat memory, and which elements a rank owns.

The parameters of a region that are placed alike share one flat buffer, so that gathering them, or reducing
their gradients, is one collective. A buffer is cut into equal shards along `shard_axis`; expert buffers hold
only the experts of the rank's place on `expert_axis`.

    buffer   | q ........ | k ... | v ... | o ........ | padding |
    shards   | rank 0          | rank 1          | rank 2        |

Every element of every parameter is in exactly one shard (times the ranks it is replicated on); `pieces` says
where. Two regions may use one buffer: then both have it, and `owner` says whose state it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal

from .dtypes import DtypeName
from .mesh import Mesh

Init = Literal["normal", "ones", "zeros"]


@dataclass(frozen=True)
class Slot:
    """One parameter in a buffer, at `offset` elements.

    With `experts`, `local` experts of `shape` one after another.

    `local` experts times the ranks of the expert axis may exceed `experts`: the last ones are never chosen,
    and zero.
    """

    path: str
    shape: tuple[int, ...]
    offset: int
    init: Init
    experts: int | None = None
    local: int = 1

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """As region graphs see it."""
        return self.shape if self.experts is None else (self.local, *self.shape)

    @property
    def numel(self) -> int:
        """Elements, experts that are padding included."""
        return prod(self.shape) * self.local

    def name(self, region: str, expert: int = 0) -> str:
        """The full name of the parameter, or of one expert's; `region` is "" or such as `layers.3`."""
        path = self.path if self.experts is None else self.path.replace("{}", str(expert))
        return f"{region}.{path}" if region else path

    def names(self, region: str) -> Iterator[str]:
        """The full names of all parameters of the slot, on whatever rank."""
        return (self.name(region, expert) for expert in range(self.experts or 1))


@dataclass(frozen=True)
class Buffer:
    """A flat buffer of `numel` elements, padding included, in `ranks` equal shards over `shard_axis`.

    Gradients are reduced over the two axes: scattered over `shard_axis`, then summed over `replica_axis`;
    every element is owned once among the ranks of `owner_axis`. What is not `trained` has no gradient.
    """

    name: str
    slots: tuple[Slot, ...]
    numel: int
    shard_axis: str
    ranks: int
    replica_axis: str
    owner_axis: str
    decay: bool
    expert_axis: str | None = None
    trained: bool = True
    owner: str | None = None  # the instance of a region that holds it for others; None: each its own
    dtype: DtypeName = "float32"  # that regions take it in, and gradients leave them in

    @property
    def shard_numel(self) -> int:
        """Elements of one shard."""
        return self.numel // self.ranks


@dataclass(frozen=True)
class Piece:
    """`count` elements of parameter `name`, from its flat index `start`, at `offset` of a rank's shard."""

    name: str
    shape: tuple[int, ...]
    start: int
    count: int
    offset: int
    init: Init


def state_name(instance: str, buffer: Buffer) -> str:
    """What the state of a buffer of a region's instance is called: `layers.3/matrices`."""
    return f"{buffer.owner or instance}/{buffer.name}"


def trained_only(states: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """Those states that have a gradient, and moments of it."""
    return {name: buffer for name, buffer in states.items() if buffer.trained}


def with_part(part: str, states: Mapping[str, Buffer]) -> dict[str, Buffer]:
    """Those states that have `part` of `STATE_PARTS`: all have parameters."""
    return dict(states) if part == "parameter" else trained_only(states)


def lay_out(
    name: str,
    slots: list[Slot],
    mesh: Mesh,
    decay: bool,
    axes: tuple[str, str, str],
    expert_axis: str | None,
    trained: bool = True,
    owner: str | None = None,
    dtype: DtypeName = "float32",
) -> Buffer:
    """Put slots one after another and pad to whole shards. `axes`: shard, replica and owner axis."""
    placed, offset = [], 0
    for slot in slots:
        placed.append(Slot(slot.path, slot.shape, offset, slot.init, slot.experts, slot.local))
        offset += slot.numel
    ranks = mesh.size(axes[0])
    numel = -(-offset // ranks) * ranks
    return Buffer(
        name, tuple(placed), numel, axes[0], ranks, *axes[1:], decay, expert_axis, trained, owner, dtype
    )


def pieces(buffer: Buffer, region: str, mesh: Mesh, rank: int) -> Iterator[Piece]:
    """What the shard of `rank` holds, in the order of its elements.

    `region` is "" or a prefix such as `layers.3`.
    """
    begin = mesh.index(buffer.shard_axis, rank) * buffer.shard_numel
    end = begin + buffer.shard_numel
    place = mesh.index(buffer.expert_axis, rank) if buffer.expert_axis else 0
    for slot in buffer.slots:
        one = prod(slot.shape)
        for expert in range(slot.local):
            index = place * slot.local + expert
            if slot.experts is not None and index >= slot.experts:
                continue
            first = slot.offset + expert * one
            low, high = max(first, begin), min(first + one, end)
            if low < high:
                yield Piece(
                    name=slot.name(region, index),
                    shape=slot.shape,
                    start=low - first,
                    count=high - low,
                    offset=low - begin,
                    init=slot.init,
                )
