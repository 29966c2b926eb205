"""Ranks on one machine: what the environment's mpirun is given, and what becomes of signals and codes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from moec.runtime.errors import EnvironmentMismatch
from moec.runtime.mpirun import command, find
from mpi_job import MPIS, Mpi, interpreter, run

START = "import sys; from moec.runtime.mpirun import start; sys.exit(start(int(sys.argv[1]), sys.argv[2:]))"
PRINT_RANK = """
import os
from moec.runtime.launch import discover
launch = discover()
line = f"{launch.rank} {launch.world} {launch.local_rank} {os.environ['OMP_NUM_THREADS']}\\n"
os.write(1, line.encode())  # at once: unbuffered prints of several ranks may share a line
"""


@pytest.mark.mpi
@pytest.mark.parametrize("mpi", MPIS)
def test_more_ranks_than_cores_start_and_know_their_places(mpi: Mpi, tmp_path: Path) -> None:
    """Also inside a batch job, whose variables would send the ranks elsewhere."""
    ranks = len(os.sched_getaffinity(0)) + 1
    python = interpreter(mpi)
    batch = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOBID": "7",
        "SLURM_JOB_NODELIST": "nowhere",
        "SLURM_NODELIST": "nowhere",
    }
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | batch
    result = run([python, "-c", START, str(ranks), python, "-c", PRINT_RANK], environment, timeout_s=60)
    assert result.rc == 0, result.output
    assert sorted(result.output.splitlines()) == [f"{rank} {ranks} {rank} 1" for rank in range(ranks)]


@pytest.mark.mpi
def test_the_exit_code_is_that_of_the_ranks() -> None:
    result = run(
        [sys.executable, "-c", START, "2", sys.executable, "-c", "exit(9)"], os.environ, timeout_s=60
    )
    assert result.rc == 9


@pytest.mark.mpi
@pytest.mark.parametrize("mpi", MPIS)
def test_a_signal_reaches_the_ranks(mpi: Mpi, tmp_path: Path) -> None:
    """USR1, the early warning of batch systems, goes through `start` and mpirun to every rank."""
    program = tmp_path / "rank.py"
    program.write_text(
        "import os, pathlib, signal, sys\n"
        "signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))\n"
        "from moec.runtime.launch import discover\n"
        "pathlib.Path(sys.argv[1], str(discover().rank)).touch()\n"
        "signal.pause()\n"
    )
    ready = tmp_path / "ready"
    ready.mkdir()

    def warn(process: subprocess.Popen[bytes]) -> None:
        while len(list(ready.iterdir())) < 2 and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)

    python = interpreter(mpi)
    line = [python, "-c", START, "2", python, str(program), str(ready)]
    result = run(line, os.environ, timeout_s=60, during=warn)
    assert (result.rc, result.timed_out, result.survivors) == (0, False, 0), result.output


def test_settings_of_the_user_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.setenv("OMPI_MCA_btl", "self,tcp")
    _, environment = command(2, ["true"])
    assert environment["OMP_NUM_THREADS"] == "5"
    assert environment["OMPI_MCA_btl"] == "self,tcp"


def test_variables_of_an_outer_rank_do_not_reach_an_inner_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", "1")
    monkeypatch.setenv("PMI_RANK", "1")
    _, environment = command(2, ["true"])
    assert not {"OMPI_COMM_WORLD_RANK", "PMI_RANK"} & environment.keys()


def test_without_any_mpirun_the_advice_is_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentMismatch, match=r"pip install 'moec\[local\]'"):
        find(str(tmp_path / "python"))


def test_an_mpirun_that_does_not_run_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "mpirun"
    broken.write_text("#!/nowhere/sh\n")
    broken.chmod(0o755)
    with pytest.raises(EnvironmentMismatch, match=f"{broken} --version does not run"):
        find(str(tmp_path / "python"))
