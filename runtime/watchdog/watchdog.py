"""The watchdog of a rank: a thread beside its main thread, which may be blocked in MPI or gloo for ever.

It ends the job where nothing else would: when there was no progress for too long (exit code 86, with every
rank's place), when another rank of this machine is gone (88), when the launcher is gone (88), and at a
SIGTERM after another request to stop. Where even this thread does not run, because something holds the
interpreter's lock, a timer of the system prints the stacks of all threads and ends the process.

Nothing is sent over the network for it: see `board.py`.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from moec.runtime.errors import ExitCode, RuntimeFailure
from moec.runtime.executor import Executor
from moec.runtime.record.status import mark_failed, read_status

from .beats import beats
from .board import Board
from .launcher import Launcher
from .limits import CHECKPOINT, SETUP, STEP, Limits
from .place import Place, frames, is_gone
from .processes import born, this_host
from .report import gone, stalled
from .signals import Signals

LOOK_S = 0.25
"""How often the watchdog looks."""

POST_S, POST_LARGE_S, LARGE = 1.0, 5.0, 64
"""How often a rank posts its place: rarely where there are more ranks than `LARGE`."""

GRACE_S = 1.5
"""How long the rank that speaks waits for the others to post where they stand."""

ABORT_S = 3.0
"""How long a launcher is given to end the job, before a rank ends itself."""

MPIRUN_KILLS_S = 1.0
"""Open MPI's mpirun ends ranks by SIGCONT, SIGTERM and SIGKILL within half a second."""


@dataclass(frozen=True)
class Watched:
    """What a watchdog needs to know of its rank: how to end the job, and where its verdict is kept.

    `killed_by_term` says that the launcher kills soon after SIGTERM, as Open MPI's does. `outlives` says that
    the others go on where a rank is lost.
    """

    rank: int
    world: int
    abort: Callable[[int], None]
    status: Path
    killed_by_term: bool = False
    outlives: bool = False


class Watchdog:
    """Watches from `start` to `close`. The main thread tells it what it is at; nothing is waited for."""

    def __init__(self, watched: Watched, limits: Limits, signals: Signals | None = None) -> None:
        self.watched, self.limits = watched, limits
        self._signals = signals
        self._launcher = Launcher()
        self._executor: Executor | None = None
        self._board: Board | None = None
        self._peers: dict[int, Place] = {}
        self._section, self._step = SETUP, -1
        self._post_s = POST_S if watched.world <= LARGE else POST_LARGE_S
        self._seen = (0, 0)
        self._moved_s = time.monotonic()
        self._posted_s = -1e9
        self._continued_s = -1e9
        self._ending = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="moec-watchdog", daemon=True)
        self._me = Place(watched.rank, this_host(), os.getpid(), born(os.getpid()), 0, 0, SETUP, -1, 0)

    # --- the main thread ---

    def start(self) -> None:
        """Begin to watch."""
        with suppress(RuntimeError, ValueError, AttributeError, OSError):  # stderr is no file
            faulthandler.enable()
        self._thread.start()

    def watch(self, executor: Executor) -> None:
        """This is what makes progress from now on."""
        self._executor = executor

    def identity(self) -> Place:
        """Who this rank is, to tell the others."""
        return self._me

    def join(self, board: Board, peers: list[Place]) -> None:
        """Show this rank's place on a board from now on; `peers` say who the ranks are."""
        host = self._me.host
        self._peers = {p.rank: p for p in peers if p.host == host and p.rank != self.watched.rank}
        board.post(self._place())
        self._board = board

    def at(self, section: str, step: int | None = None) -> None:
        """The rank is at something else now; that is progress, too."""
        self._section = section
        if step is not None:
            self._step = step
        self._moved_s = time.monotonic()

    def lost(self) -> str:
        """What is known of ranks that are gone, empty where none is: for who has noticed that a peer is."""
        places = self._lost()
        if not places or self._board is None:
            return ""
        return gone(self._board.places(), [p.rank for p in places], self.watched.world, time.time())

    def close(self, done: bool = False) -> None:
        """Watch no more; `done`: this rank has done its work, and may be gone from now on."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        faulthandler.cancel_dump_traceback_later()
        if self._board is not None:
            self._board.post(replace(self._place(), left=done))

    # --- its own thread ---

    def _watch(self) -> None:
        armed_s = -1e9
        while not self._closed.is_set():
            now_s = time.monotonic()
            if now_s - armed_s > POST_S:
                armed_s = now_s
                _arm(1.5 * self.limits.of(self._section) + 2 * POST_S)
            self._hear(self._signals.wait(LOOK_S) if self._signals else self._nap())
            if not self._closed.is_set():
                self._look(time.monotonic())

    def _nap(self) -> list[int]:
        self._closed.wait(LOOK_S)
        return []

    def _look(self, now_s: float) -> None:
        done = (self._executor.position.done if self._executor else 0, beats())
        if done != self._seen:
            self._seen, self._moved_s = done, now_s
        if now_s - self._posted_s >= self._post_s:
            self._posted_s = now_s
            self._post()
            self._check_others()
        if now_s - self._moved_s > self.limits.of(self._section):
            self._stalled(now_s - self._moved_s)

    def _post(self) -> None:
        if self._board is not None:
            self._board.post(self._place())

    def _place(self) -> Place:
        stack = frames(self._executor) if self._executor else ()
        now_s = time.time()
        since_s = now_s - (time.monotonic() - self._moved_s)
        return replace(
            self._me, time_s=now_s, since_s=since_s, section=self._section, step=self._step,
            done=self._seen[0], stack=stack,
        )  # fmt: skip

    def _check_others(self) -> None:
        if self._launcher.is_gone():
            self._end(ExitCode.LOST_PEER, f"{self._launcher} is gone: this rank ends")
        if not self.watched.outlives and (report := self.lost()):
            self._end(ExitCode.LOST_PEER, report)

    def _lost(self) -> list[Place]:
        """The ranks of this machine whose process has ended, though they had not done their work."""
        ended = [place for place in self._peers.values() if is_gone(place)]
        if not ended or self._board is None:
            return []
        places = self._board.places()
        return [place for place in ended if not (p := places.get(place.rank)) or not p.left]

    def _stalled(self, waited_s: float) -> None:
        self._post()
        if self._board is None:
            message = f"no progress for {waited_s:.0f} s in {self._place()}"
            self._end(ExitCode.HANG, message)
        if self._board is not None and not self._board.speak():
            self._closed.wait(GRACE_S + 2 * ABORT_S)  # whoever speaks ends this rank
            self._leave(ExitCode.HANG)
        time.sleep(GRACE_S)
        assert self._board is not None
        report = stalled(self._board.places(), self.watched.world, waited_s, time.time(), self._post_s)
        self._end(ExitCode.HANG, report)

    def _hear(self, signals: list[int]) -> None:
        for number in signals:
            if number == signal.SIGCONT:
                self._continued_s = time.monotonic()
                continue
            if number == signal.SIGTERM and time.monotonic() - self._continued_s < MPIRUN_KILLS_S:
                self._terminated()
            assert self._signals is not None
            # USR1 may come several times: from a scheduler to every process, and through the launcher.
            if number == signal.SIGTERM and len(self._signals.stops) > 1:
                name = signal.Signals(number).name
                self._end(128 + number, f"the second request to stop, {name}: nothing is saved")

    def _terminated(self) -> None:
        """mpirun is about to kill this rank: a rank is lost, or somebody has ended the job."""
        if report := self.lost():
            self._tell(ExitCode.LOST_PEER, report)
        elif self.watched.killed_by_term:
            self._tell(
                128 + signal.SIGTERM,
                "ended by SIGTERM: Open MPI's mpirun gives ranks half a second, too short to save; "
                "send it SIGUSR1 to save and stop",
            )

    def _end(self, code: int, message: str) -> None:
        """Say why, and end the job."""
        with self._ending:
            self._tell(code, message)
            self._leave(code)

    def _tell(self, code: int, message: str) -> None:
        """Message and verdict, unless another rank was first; before the board, a verdict is of before."""
        if self._board is None or not _has_verdict(self.watched.status):
            mark_failed(self.watched.status, code, message, step=max(self._step, 0))
            sys.stderr.write(f"moec: error: {message}\n")
            sys.stderr.flush()

    def _leave(self, code: int) -> None:
        threading.Thread(target=self.watched.abort, args=(int(code),), daemon=True).start()
        time.sleep(ABORT_S)
        os._exit(int(code))


def _has_verdict(status: Path) -> bool:
    with suppress(RuntimeFailure):
        return read_status(status).state != "running"
    return False


def _arm(seconds: float) -> None:
    """The last resort: if this thread does not come round again, print all stacks and end the process."""
    with suppress(RuntimeError, ValueError, AttributeError, OSError):  # stderr is no file
        faulthandler.dump_traceback_later(seconds, exit=True)


__all__ = ["CHECKPOINT", "SETUP", "STEP", "Watchdog", "Watched"]
