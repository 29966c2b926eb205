"""`run_status.json`: the verdict of a run. Launchers rewrite exit codes, so the run keeps its own.

    {"state": "complete", "step": 200, "steps": 200, "loss": 2.31, "exit_code": 0, "reason": "", "world": 8,
     "bundle": "6f0c...", "started": "2026-01-01T12:00:00+00:00", "updated": "2026-01-01T12:30:00+00:00",
     "state_bytes": {"parameters": 4096, "gradients": 4096, "optimizer": 8192}}

It is replaced as a whole, so a reader never sees half of it. Rank 0 keeps it, and any rank may say that the
run failed: that verdict stays, whatever rank 0 has to say afterwards. A run that ends without a word (a lost
machine, SIGKILL) leaves `running` behind, with the time of its last sign of life.
"""

from __future__ import annotations

import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from moec.runtime.abi.codec import FormatError, dump, from_data, parse_json, to_data
from moec.runtime.data.files import ReadOnlyFile, written_whole
from moec.runtime.errors import ExitCode, IntegrityError, RuntimeFailure

INTERVAL_S = 5.0
MAX_STATUS_BYTES = 1 << 20
_MAX_REASON = 10_000

State = Literal["running", "complete", "stopped", "failed"]


@dataclass(frozen=True)
class RunStatus:
    """How far a run has come, or how it ended.

    `step` counts the steps that are done. `loss` is that of the last one, None before the first and where it
    is not finite. `exit_code` is None while it runs, and one of `ExitCode` afterwards; with 75 the run is
    `stopped`: not complete, and its state saved, so that it can go on. Times are UTC, in ISO 8601. `bundle`
    is a digest, empty before it is read. `state_bytes` is what rank 0 holds of the model all the time:
    parameters, gradients and optimizer state.
    """

    state: State
    step: int
    steps: int
    loss: float | None
    exit_code: int | None
    reason: str
    world: int
    bundle: str
    started: str
    updated: str
    state_bytes: dict[str, int] = field(default_factory=dict)


def utc_now() -> datetime:
    """The time, in UTC."""
    return datetime.now(UTC)


class StatusFile:
    """Keeps a run's status on disk; on rank 0 only. Made, it is written, over that of an earlier run.

    A failure of this run that another rank has written meanwhile is never replaced.

    `step` is the number of steps that were done before, by the runs that this one goes on from.

    Raises:
        UserError: there is no such directory.
        InputOutputError: writing failed.
    """

    def __init__(
        self,
        path: Path,
        *,
        steps: int,
        world: int,
        bundle: str,
        step: int = 0,
        state_bytes: Mapping[str, int] | None = None,
        interval_s: float = INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._path, self._interval_s, self._clock, self._now = path, interval_s, clock, now
        started = _time(now)
        held = dict(state_bytes or {})
        self.status = RunStatus("running", step, steps, None, None, "", world, bundle, started, started, held)
        with _locked(path):
            self._store()

    def advance(self, step: int, loss: float) -> None:
        """`step` steps are done, the last with `loss`. Written if the last time is `interval_s` ago.

        Raises:
            InputOutputError: writing failed.
        """
        finite = loss if math.isfinite(loss) else None
        self.status = replace(self.status, step=step, loss=finite)
        if self._clock() - self._written_s >= self._interval_s:
            self._write()

    def end(self, exit_code: int = 0, reason: str = "") -> None:
        """The run is over: complete, stopped early and saved, or failed for a reason.

        Raises:
            InputOutputError: writing failed.
        """
        self.status = _ended(self.status, exit_code, reason)
        self._write()

    def _write(self) -> None:
        with _locked(self._path):
            if not _has_failed(self._path):
                self._store()

    def _store(self) -> None:
        self.status = replace(self.status, updated=_time(self._now))
        _store(self._path, self.status)
        self._written_s = self._clock()


def mark_failed(
    path: Path,
    exit_code: int,
    reason: str,
    step: int = 0,
    loss: float | None = None,
    *,
    replaces: bool = False,
) -> None:
    """Say that a run failed, where its rank 0 cannot: another rank ends the job, or its launcher sees it end.

    `step` steps were done, the last with `loss`, if the file does not know of more. A verdict that is there
    already stays, as the first failure is the cause, unless this one `replaces` it. Nothing is raised:
    whoever calls this has a failure of its own to report.
    """
    with suppress(RuntimeFailure), _locked(path):
        status = read_status(path)
        if step > status.step:
            finite = loss if loss is not None and math.isfinite(loss) else None
            status = replace(status, step=step, loss=finite)
        if status.state == "running" or replaces:
            _store(path, replace(_ended(status, exit_code, reason), updated=_time(utc_now)))


def read_status(path: Path) -> RunStatus:
    """The status that a run has left.

    Raises:
        UserError: no such file.
        IntegrityError: it holds something else.
        InputOutputError: it cannot be read.
    """
    file = ReadOnlyFile(path)
    if file.size_bytes > MAX_STATUS_BYTES:
        raise IntegrityError(f"{path} has {file.size_bytes} bytes: too many for the status of a run")
    try:
        return from_data(RunStatus, parse_json(bytes(file.read(0, file.size_bytes)), str(path)), str(path))
    except FormatError as error:
        raise IntegrityError(str(error)) from error


def _ended(status: RunStatus, exit_code: int, reason: str) -> RunStatus:
    ends: dict[int, State] = {ExitCode.DONE: "complete", ExitCode.STOPPED_EARLY: "stopped"}
    state = ends.get(int(exit_code), "failed")
    text = reason[:_MAX_REASON].encode(errors="replace").decode()  # names of files may hold half characters
    return replace(status, state=state, exit_code=int(exit_code), reason=text)


def _has_failed(path: Path) -> bool:
    try:
        return read_status(path).state == "failed"
    except RuntimeFailure:  # it is gone, or damaged: written anew
        return False


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Nobody else reads and replaces the file meanwhile, on any machine if its file system has locks."""
    descriptor = None
    with suppress(OSError):  # without locks, or without the folder, which is told where the file is written
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _store(path: Path, status: RunStatus) -> None:
    with written_whole(path) as file:
        file.write(dump(to_data(status)))


def _time(now: Callable[[], datetime]) -> str:
    return now().isoformat(timespec="seconds")
