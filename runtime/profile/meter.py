"""What a rank's collectives send, and for how long they hold it up: counted in every step.

Bytes sent are those that a collective needs to send, whatever its algorithm, for n members:

    all_gather        (n - 1) of the shard
    reduce_scatter    (n - 1) / n of the whole
    all_reduce        2 (n - 1) / n of the whole
    all_to_all        the rows for others
    broadcast         (n - 1) / n of the whole, on average
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from moec.runtime.transport.api import Group, Handle
from moec.runtime.transport.common import row_bytes


@dataclass(frozen=True)
class Moved:
    """What collectives did: bytes sent by (axis, collective), seconds in start halves and in wait halves."""

    sent_bytes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    start_s: float = 0.0
    wait_s: float = 0.0

    def by_axis(self) -> dict[str, dict[str, int]]:
        """Axis -> collective -> bytes sent, without those that send nothing."""
        found: dict[str, dict[str, int]] = {}
        for (axis, kind), count in self.sent_bytes.items():
            if count:
                found.setdefault(axis, {})[kind] = count
        return found


class Meter:
    """Counts what the groups that it is given do."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self._sent: dict[tuple[str, str], int] = {}
        self._start_s = self._wait_s = 0.0

    def groups(self, groups: Mapping[str, Group]) -> dict[str, Group]:
        """The same groups by axis, counted."""
        return {axis: MeteredGroup(group, axis, self) for axis, group in groups.items()}

    def take(self) -> Moved:
        """What was counted since this was last called."""
        found = Moved(self._sent, self._start_s, self._wait_s)
        self._sent, self._start_s, self._wait_s = {}, 0.0, 0.0
        return found

    def started(self, key: tuple[str, str], sent_bytes: int, seconds: float) -> None:
        """A start half is over."""
        self._sent[key] = self._sent.get(key, 0) + sent_bytes
        self._start_s += seconds

    def waited(self, seconds: float) -> None:
        """A wait half is over."""
        self._wait_s += seconds


class MeteredGroup:
    """A group whose collectives are counted; see `transport.api.Group`."""

    def __init__(self, group: Group, axis: str, meter: Meter) -> None:
        self._group, self._axis, self._meter = group, axis, meter

    @property
    def size(self) -> int:
        """The number of members."""
        return self._group.size

    @property
    def index(self) -> int:
        """This rank's place among them."""
        return self._group.index

    def all_gather(self, shard: Tensor) -> Handle:
        """As the group."""
        others = self.size - 1
        return self._start("all_gather", shard.nbytes * others, lambda: self._group.all_gather(shard))

    def reduce_scatter(self, full: Tensor) -> Handle:
        """As the group."""
        sent = full.nbytes * (self.size - 1) // self.size
        return self._start("reduce_scatter", sent, lambda: self._group.reduce_scatter(full))

    def all_reduce(self, x: Tensor) -> Handle:
        """As the group."""
        sent = 2 * x.nbytes * (self.size - 1) // self.size
        return self._start("all_reduce", sent, lambda: self._group.all_reduce(x))

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Handle:
        """As the group."""
        rows = sum(send) - (send[self.index] if len(send) == self.size else 0)
        sent = rows * row_bytes(x)
        return self._start("all_to_all", sent, lambda: self._group.all_to_all(x, send, receive))

    def broadcast(self, x: Tensor, root: int) -> Handle:
        """As the group."""
        sent = x.nbytes * (self.size - 1) // self.size
        return self._start("broadcast", sent, lambda: self._group.broadcast(x, root))

    def _start(self, kind: str, sent_bytes: int, start: Callable[[], Handle]) -> Handle:
        clock = self._meter.clock
        before_s = clock()
        handle = start()
        self._meter.started((self._axis, kind), sent_bytes, clock() - before_s)
        return _MeteredHandle(handle, self._meter)


@dataclass(frozen=True, slots=True)
class _MeteredHandle:
    handle: Handle
    meter: Meter

    def wait(self) -> Tensor:
        """As the handle."""
        before_s = self.meter.clock()
        result = self.handle.wait()
        self.meter.waited(self.meter.clock() - before_s)
        return result
