"""The mesh: how the ranks of a job are arranged into named axes. Graphs name axes, never ranks.

    world = replicate x shard                             (pipeline, context and tensor axes are 1 for now)
    the same ranks, sliced for experts: expert_replicate x expert_shard x expert

The last axis varies fastest: a shard group is `shard` neighbouring ranks, an expert group `expert`
neighbouring ranks.
"""

from __future__ import annotations

from dataclasses import dataclass

Groups = tuple[tuple[int, ...], ...]

AXES = ("data", "replicate", "shard", "expert_replicate", "expert_shard", "expert", "expert_owner", "rank")
"""`data`: all ranks that see different tokens; `expert_owner`: those that together hold every expert once;
`rank`: every rank by itself, which is what owns a value that all ranks hold whole."""


@dataclass(frozen=True)
class Mesh:
    """Degrees of all axes; `world = replicate * shard`, and `expert * expert_shard` divides it."""

    replicate: int
    shard: int
    expert: int
    expert_shard: int

    def __post_init__(self) -> None:
        if min(self.replicate, self.shard, self.expert, self.expert_shard) < 1:
            raise ValueError("degrees are at least 1")
        if self.world % (self.expert * self.expert_shard):
            raise ValueError(f"expert * expert_shard does not divide {self.world} ranks")

    @property
    def world(self) -> int:
        """The number of ranks."""
        return self.replicate * self.shard

    @property
    def expert_replicate(self) -> int:
        """How often every expert is there."""
        return self.world // (self.expert * self.expert_shard)

    def axes(self) -> dict[str, Groups]:
        """Every axis as a partition of the ranks into groups, each in axis order."""
        return {axis: self._groups(*self._stride_and_size(axis)) for axis in AXES}

    def size(self, axis: str) -> int:
        """How many ranks are on one group of `axis`."""
        return self._stride_and_size(axis)[1]

    def index(self, axis: str, rank: int) -> int:
        """Where `rank` is within its group of `axis`."""
        stride, size = self._stride_and_size(axis)
        return rank // stride % size

    def _stride_and_size(self, axis: str) -> tuple[int, int]:
        """Members of a group are `stride` ranks apart, and there are `size` of them."""
        owners = self.expert * self.expert_shard
        return {
            "data": (1, self.world),
            "replicate": (self.shard, self.replicate),
            "shard": (1, self.shard),
            "expert_replicate": (owners, self.expert_replicate),
            "expert_shard": (self.expert, self.expert_shard),
            "expert": (1, self.expert),
            "expert_owner": (1, owners),
            "rank": (1, 1),
        }[axis]

    def _groups(self, stride: int, size: int) -> Groups:
        starts = (rank for rank in range(self.world) if rank // stride % size == 0)
        return tuple(tuple(start + i * stride for i in range(size)) for start in starts)
