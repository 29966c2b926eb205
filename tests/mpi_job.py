"""Run a program under a real mpirun, with a time-out that leaves no process behind.

    from mpi_job import job
    result = job(2, ["tests/programs/hello.py"], mpi="mpich")

Open MPI is the environment's own; MPICH's environment is made on first use (`make_mpich_env`).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import make_mpich_env
from moec.runtime.mpirun import command

Mpi = Literal["openmpi", "mpich"]
MPIS: tuple[Mpi, ...] = ("openmpi", "mpich")


@dataclass(frozen=True)
class JobResult:
    """How a job ended. `output` holds stdout and stderr of all ranks and of mpirun, as they came."""

    rc: int
    seconds: float
    output: str
    timed_out: bool
    survivors: int  # processes of the job that outlived mpirun by a second; they have been killed


def interpreter(mpi: Mpi) -> str:
    """The python of the environment with that MPI."""
    if mpi == "openmpi":
        return sys.executable
    make_mpich_env.make()
    return str(make_mpich_env.PYTHON)


def job(
    n: int,
    argv: Sequence[str | Path],
    *,
    mpi: Mpi = "openmpi",
    env: Mapping[str, str] | None = None,
    timeout_s: float = 120.0,
    during: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> JobResult:
    """Run `n` ranks of `python argv...`; `during` is called with mpirun's process once it has started."""
    python = interpreter(mpi)
    line, environment = command(n, [python, *map(str, argv)], python)
    return run(line, environment | {"OMP_NUM_THREADS": "1"} | dict(env or {}), timeout_s, during)


def run(
    line: Sequence[str],
    environment: Mapping[str, str],
    timeout_s: float,
    during: Callable[[subprocess.Popen[bytes]], None] | None = None,
) -> JobResult:
    """Run a command in a session of its own, and end that session with it."""
    begin = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            line,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            if during is not None:
                during(process)
            process.wait(timeout_s - (time.monotonic() - begin))
            timed_out = False
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            seconds = time.monotonic() - begin
            survivors = end_session(process.pid)
        rc = process.wait()
        output.seek(0)
        return JobResult(rc, seconds, output.read().decode(errors="replace"), timed_out, survivors)


def end_session(session: int) -> int:
    """Kill what is left of a session after a second of grace; returns how many processes that were."""
    deadline = time.monotonic() + 1
    while list(alive(session)) and time.monotonic() < deadline:
        time.sleep(0.02)
    left = list(alive(session))
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return len(left)


def alive(session: int) -> Iterator[int]:
    """The processes of a session that still run."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has just ended
        if int(its_session) == session and state != "Z":
            yield int(entry.name)
