"""`self`: a job of one rank. The other transports use its group for axes of size one."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from moec.runtime.transport.api import Group
from moec.runtime.transport.common import (
    Ready,
    check_broadcast,
    check_exchange,
    check_gather,
    check_reduce,
    check_scatter,
    groups_of,
    own_copy,
)


class SingleGroup:
    """A group whose only member is this rank: every collective is a copy."""

    size = 1
    index = 0

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def all_gather(self, shard: Tensor) -> Ready:
        """(r, ...) -> (r, ...)."""
        check_gather(shard, self._device)
        return Ready(own_copy(shard))

    def reduce_scatter(self, full: Tensor) -> Ready:
        """(r, ...) -> (r, ...)."""
        check_scatter(full, self.size, self._device)
        return Ready(own_copy(full))

    def all_reduce(self, x: Tensor) -> Ready:
        """Any shape -> the same shape."""
        check_reduce(x, self._device)
        return Ready(own_copy(x))

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Ready:
        """(r, ...) -> (r, ...), where `send` and `receive` are both [r]."""
        check_exchange(x, send, receive, self.size, self.index, self._device)
        return Ready(own_copy(x))

    def broadcast(self, x: Tensor, root: int) -> Ready:
        """Any shape -> the same shape."""
        check_broadcast(x, root, self.size, self._device)
        return Ready(own_copy(x))


class SingleTransport:
    """One rank, no network."""

    name = "self"
    library = f"torch {torch.__version__}"
    rank = 0
    world = 1

    def __init__(self, device: torch.device | None = None) -> None:
        self.device = device or torch.device("cpu")

    def groups(self, axes: Mapping[str, Sequence[Sequence[int]]]) -> dict[str, Group]:
        """A group of one for every axis."""
        return {axis: SingleGroup(self.device) for axis in groups_of(self.rank, self.world, axes)}

    def exchange(self, data: bytes) -> list[bytes]:
        """[data]."""
        return [data]

    def last_words(self, data: bytes, patience_s: float) -> list[bytes] | None:
        """[data]."""
        return [data]

    def abort(self, code: int) -> None:
        """End this process with `code`, from any thread, without unwinding."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def close(self) -> None:
        """Nothing to release."""
