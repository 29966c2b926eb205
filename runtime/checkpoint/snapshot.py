"""A copy of what this rank writes, taken on the training thread, so that training can go on meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moec.runtime.state import TrainState

from .slices import Held
from .write import Values


class Snapshot:
    """Host memory for the slices of a rank, made at the first `take` and used again by the next.

    `files` is what `slices_of` says. Dtypes are those of the state; on a GPU the memory is pinned.
    """

    def __init__(self, state: TrainState, files: Mapping[str, Sequence[Held]]) -> None:
        self._state, self._files = state, files
        self._copies: dict[tuple[str, str], Tensor] = {}

    def take(self) -> None:
        """Copy the shards as they are now. Nobody may be writing the copy before."""
        shards = {
            (held.slice.part, held.state): self._state.parts[held.slice.part][held.state]
            for files in self._files.values()
            for held in files
        }
        for key, shard in shards.items():
            if key not in self._copies:
                pinned = shard.device.type == "cuda"
                self._copies[key] = torch.empty(shard.shape, dtype=shard.dtype, pin_memory=pinned)
            self._copies[key].copy_(shard, non_blocking=True)
        if any(shard.device.type == "cuda" for shard in shards.values()):
            torch.cuda.synchronize()

    def values(self, name: str) -> list[Values]:
        """The slices of a file with their values, of one block each."""
        return [self._of(held) for held in self._files[name]]

    def _of(self, held: Held) -> Values:
        copy = self._copies[held.slice.part, held.state]
        block = copy[held.offset : held.offset + held.slice.count]
        return Values(held.slice, copy.dtype, (block,))
