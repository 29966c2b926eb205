"""All that watches a run, put together: signals, watchdog, the meetings of ranks, faults on purpose."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

from moec.runtime.abi.codec import dump, from_data, to_data
from moec.runtime.data.files import written_whole
from moec.runtime.errors import ExitCode, RuntimeFailure
from moec.runtime.executor import Executor
from moec.runtime.launch import discover
from moec.runtime.loop import Companion
from moec.runtime.out_of_memory import named
from moec.runtime.transport.api import Transport, TransportError

from . import board
from .board import Board
from .council import Council
from .limits import CHECKPOINT, SETUP, STEP, Limits
from .place import Place
from .signals import Signals
from .stragglers import Stragglers, warning
from .watchdog import Watchdog, Watched

STRAGGLERS = "stragglers.json"
_GONE_S = 1.0


class Watch:
    """Watches one rank's run in `out`, whose verdict is in `status`; a context, on the main thread.

    Leaving it with an error that tells of a lost peer names the ranks of this machine that are gone; with one
    that tells that memory is at an end, it says what was planned. `outlives`: the run goes on without ranks
    that are lost.
    """

    def __init__(
        self, transport: Transport, out: Path, status: Path, limits: Limits, *, outlives: bool = False
    ) -> None:
        self._transport, self._out = transport, out
        self._signals = Signals()
        self._dog = Watchdog(
            Watched(
                transport.rank,
                transport.world,
                transport.abort,
                status,
                killed_by_term=discover().kind == "openmpi",
                outlives=outlives,
            ),
            limits,
            self._signals,
        )
        self._planned: Mapping[str, int] = {}
        self._slow: set[int] = set()
        self._done = False

    def __enter__(self) -> Self:
        self._dog.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and (failure := named(error, self._planned, self._transport.device)):
                raise failure from error
            if isinstance(error, RuntimeFailure) and error.exit_code == ExitCode.LOST_PEER:
                self._name_the_lost(error)
        finally:
            self._dog.close(done=error is None)
            self._signals.close()
        if error is None:
            self._transport.exchange(b"")  # no rank posts any more
            if self._transport.rank == 0:
                board.remove(self._out / board.FOLDER)

    def watch(self, executor: Executor) -> None:
        """What makes progress from now on."""
        self._dog.watch(executor)

    def holds(self, planned: Mapping[str, int]) -> None:
        """What this rank's state takes, in bytes by part."""
        self._planned = planned

    def join(self) -> None:
        """All ranks show where they are from now on, in a folder of `out`, which is there. On all ranks."""
        folder = self._out / board.FOLDER
        if self._transport.rank == 0:
            board.clear(folder)
        me = json.dumps(to_data(self._dog.identity())).encode()
        peers = [from_data(Place, json.loads(one), "place") for one in self._transport.exchange(me)]
        self._dog.join(Board(folder, self._transport.rank, self._transport.world), peers)

    def companions(self, executor: Executor) -> tuple[Companion, ...]:
        """What comes before all other companions of the run."""
        council = Council(self._transport, self._signals, executor.position, self._tell)
        return council, _Sections(self._dog)

    def saving(self) -> None:
        """The steps are over; what is left is written."""
        self._dog.at(CHECKPOINT)

    def _tell(self, found: Stragglers, step: int) -> None:
        slow = {score.rank for score in found.slow}
        if self._transport.rank == 0:
            for score in found.slow:
                if score.rank not in self._slow:
                    say(warning(score, step, found.step_s))
            if slow or self._slow:
                self._write(found, step)
        self._slow = slow

    def _write(self, found: Stragglers, step: int) -> None:
        """The scores of the slowest, for `moec status` and people."""
        scores = sorted(found.scores, key=lambda score: score.relative)[:64]
        data = {"step": step, "step_s": found.step_s, "slow": sorted({s.rank for s in found.slow})}
        with written_whole(self._out / STRAGGLERS) as file:
            file.write(dump({**data, "ranks": [asdict(score) for score in scores]}))

    def _name_the_lost(self, error: RuntimeFailure) -> None:
        deadline = time.monotonic() + _GONE_S
        while not (report := self._dog.lost()) and time.monotonic() < deadline:
            time.sleep(0.05)
        if report:
            message = f"{error}\n{report}"
            raise TransportError(message, operation=error.operation, origin=error.origin) from error


class _Sections(Companion):
    """Tells the watchdog what the run is at."""

    def __init__(self, dog: Watchdog) -> None:
        self._dog = dog

    def before_step(self, step: int) -> None:
        """See `Companion`."""
        self._dog.at(STEP, step)

    def finish(self, wish: object) -> None:
        """See `Companion`: those that come next may write."""
        self._dog.at(CHECKPOINT)


def say(text: str) -> None:
    """A warning, for people."""
    sys.stderr.write(f"moec: warning: {text}\n")
    sys.stderr.flush()


__all__ = ["SETUP", "Limits", "Watch", "say"]
