"""Playing a fault: a run of a small model under a real mpirun, what goes wrong with it, and what comes after.

`Stage` has what all faults share: bundles, a text, and an undisturbed run to compare with. `Stage.play` runs
one row of the matrix and returns what was seen; nothing is judged here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from moec.runtime.mpirun import command
from mpi_job import JobResult, Mpi, job
from mpi_job import run as run_session
from system.command_line import MODEL, ON_TWO, content, losses, sets, succeed

LINES = "".join(f"{n} bottles hang on the wall, take one down, {n * n} remain.\n" for n in range(200))
SETTINGS = (*MODEL, *ON_TWO, "train.steps=12", "train.checkpoint.every=3")
TIMEOUT_S = 90.0
STALL_S = 4.0  # `--timeout` of the runs
ON_PURPOSE = re.compile(r"moec: fault on purpose on rank \d+ at (\S+):")


@dataclass(frozen=True)
class Row:
    """A fault of the matrix.

    `fault` is for MOEC_FAULT; `outside` is done to mpirun's process instead, once `after` steps are recorded.
    `sets` are more settings of the model, `arguments` of the run. With `started`, `moec run -n 2` starts the
    ranks, else mpirun does. `code` is mpirun's exit code by MPI, `state` and `verdict` are those of
    run_status.json afterwards, and `says` what the user is told. `damage` is done to the run's folder before
    it is resumed; `resumes`: whether that gives the undisturbed run.
    """

    number: str
    title: str
    code: dict[Mpi, int]
    says: str
    state: str = "failed"
    verdict: int | None = None
    fault: str = ""
    outside: str = ""
    after: int = 4
    sets: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    transport: str = "mpi"
    started: bool = False
    damage: str = ""
    resumes: bool = True
    within_s: float = 30.0  # from the fault to the end; on a machine with much else to do


@dataclass(frozen=True)
class Seen:
    """What was seen of a row: `seconds` from the fault to the end; without `resumed`, that was not tried."""

    result: JobResult
    status: dict[str, Any]
    seconds: float
    out: Path
    resumed: JobResult | None = None
    same: bool = False

    @property
    def text(self) -> str:
        """All that was said, with the verdict's reason, for who has lost his terminal."""
        return f"{self.result.output}\n{self.status.get('reason', '')}".replace("\r", "")


@dataclass
class Stage:
    """A folder with what the runs need. Bundles are compiled once for each set of settings."""

    folder: Path
    _bundles: dict[tuple[str, ...], Path] = field(default_factory=dict)
    _whole: dict[tuple[str, ...], Path] = field(default_factory=dict)

    @property
    def text(self) -> Path:
        """The data."""
        path = self.folder / "bottles.txt"
        if not path.exists():
            path.write_text(LINES)
        return path

    def bundle(self, more: tuple[str, ...] = ()) -> Path:
        """A bundle of the small model, for two ranks."""
        if more not in self._bundles:
            path = self.folder / f"bundle{len(self._bundles)}"
            succeed("compile", "tiny", "-o", path, *sets(*SETTINGS, *more))
            self._bundles[more] = path
        return self._bundles[more]

    def whole(self, more: tuple[str, ...] = ()) -> Path:
        """The folder of a run that nothing disturbs."""
        if more not in self._whole:
            out = self.folder / f"whole{len(self._whole)}"
            done = job(2, self.line(more, out), timeout_s=TIMEOUT_S)
            assert done.rc == 0, done.output
            self._whole[more] = out
        return self._whole[more]

    def line(self, more: tuple[str, ...], out: Path, *arguments: str) -> list[str | Path]:
        """The arguments of python."""
        stall = ["--timeout", f"step={STALL_S:g},setup=60,checkpoint={STALL_S:g}"]
        return ["-m", "moec", "run", self.bundle(more), "--data", self.text, "--out", out, *stall, *arguments]

    def play(self, row: Row, mpi: Mpi, out: Path) -> Seen:
        """Run, disturb, and where the row says so resume."""
        arguments = ["--transport", row.transport, *row.arguments]
        if row.fault:
            arguments.append("--enable-fault-injection")
        line = self.line(row.sets, out, *arguments)
        disturbed: list[float] = []
        during = _disturbance(row, out, disturbed) if row.outside else None
        begin = time.time()
        env = {"MOEC_FAULT": row.fault} if row.fault else {}
        result = _start(row, mpi, line, env, during)
        end = begin + result.seconds
        since = disturbed[0] if disturbed else _told(result.output) or begin
        seen = Seen(result, _status(out), end - since, out)
        return self._resume(row, mpi, seen) if row.resumes and not result.timed_out else seen

    def _resume(self, row: Row, mpi: Mpi, seen: Seen) -> Seen:
        if row.damage:
            DAMAGES[row.damage](seen.out)
        line = self.line(row.sets, seen.out, "--transport", row.transport, "--resume")
        resumed = job(2, line, mpi=mpi, timeout_s=TIMEOUT_S)
        same = resumed.rc == 0 and is_same(seen.out, self.whole(row.sets))
        return Seen(seen.result, seen.status, seen.seconds, seen.out, resumed, same)


def is_same(one: Path, other: Path) -> bool:
    """Losses of all steps and weights of two runs, to the last bit."""
    weights = [content(folder / "weights") for folder in (one, other)]
    return losses(one) == losses(other) and weights[0] == weights[1]


def _start(
    row: Row,
    mpi: Mpi,
    line: list[str | Path],
    env: dict[str, str],
    during: Callable[[subprocess.Popen[bytes]], None] | None,
) -> JobResult:
    if not row.started:
        return job(2, line, mpi=mpi, env=env, timeout_s=TIMEOUT_S, during=during)
    _, environment = command(2, [])
    more = {"OMP_NUM_THREADS": "1", **env}
    return run_session([sys.executable, *map(str, line), "-n", "2"], environment | more, TIMEOUT_S, during)


def _told(output: str) -> float | None:
    """When the first fault was made to happen."""
    found = ON_PURPOSE.search(output)
    return datetime.fromisoformat(found[1]).astimezone(UTC).timestamp() if found else None


def _status(out: Path) -> dict[str, Any]:
    path = out / "run_status.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    assert isinstance(found, dict)
    return found


# --- from outside ---


def _disturbance(row: Row, out: Path, at: list[float]) -> Callable[[subprocess.Popen[bytes]], None]:
    def during(process: subprocess.Popen[bytes]) -> None:
        path = out / "metrics.jsonl"
        deadline = time.monotonic() + TIMEOUT_S / 2
        while process.poll() is None and time.monotonic() < deadline:
            if path.exists() and path.read_text().count("\n") >= row.after:
                break
            time.sleep(0.02)
        at.append(time.time())
        OUTSIDE[row.outside](process)

    return during


def _signal(*numbers: signal.Signals) -> Callable[[subprocess.Popen[bytes]], None]:
    def send(process: subprocess.Popen[bytes]) -> None:
        for index, number in enumerate(numbers):
            time.sleep(0.3 if index else 0)
            process.send_signal(number)

    return send


def _kill_the_launcher(process: subprocess.Popen[bytes]) -> None:
    """And see all that it has started end by itself."""
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, left = psutil.wait_procs(below, timeout=20)
    for one in left:
        one.kill()
    assert not left


OUTSIDE: dict[str, Callable[[subprocess.Popen[bytes]], None]] = {
    "USR1": _signal(signal.SIGUSR1),
    "TERM": _signal(signal.SIGTERM),
    "USR1 twice": _signal(signal.SIGUSR1, signal.SIGUSR1),
    "CONT, USR1": _signal(signal.SIGCONT, signal.SIGUSR1),
    "KILL": _kill_the_launcher,
}


# --- damage to what a run has left ---


def _newest(out: Path) -> Path:
    return max(path for path in (out / "checkpoints").glob("step-*") if path.name.count(".") == 0)


def _flip(out: Path) -> None:
    path = sorted(_newest(out).glob("*.safetensors"))[-1]
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _shorten(out: Path) -> None:
    path = sorted(_newest(out).glob("*.safetensors"))[0]
    os.truncate(path, path.stat().st_size - 8)


def _lose(out: Path) -> None:
    sorted(_newest(out).glob("*.safetensors"))[0].unlink()


def _swap(out: Path) -> None:
    first, second = sorted(_newest(out).glob("*.safetensors"))[:2]
    kept = out / "kept"
    shutil.move(first, kept)
    shutil.move(second, first)
    shutil.move(kept, second)


def _cut_manifest(out: Path) -> None:
    path = _newest(out) / "manifest.json"
    os.truncate(path, path.stat().st_size // 2)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "a flipped byte": _flip,
    "a short file": _shorten,
    "a missing file": _lose,
    "swapped files": _swap,
    "half a manifest": _cut_manifest,
}
