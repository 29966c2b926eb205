"""Starting ranks on this machine with the environment's own `mpirun`.

For more than one machine, a batch script calls `mpirun` or `srun` itself. This module is for `moec run -n 2`,
tests and small boxes: it knows what Open MPI and MPICH need to run there.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from moec.runtime.errors import EnvironmentMismatch, ExitCode
from moec.runtime.watchdog.launcher import VARIABLE, signature

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# An mpirun that sees a batch system's variables starts ranks on the nodes of the allocation; one that sees a
# rank's variables takes itself for a part of that rank's job.
_FOREIGN = ("SLURM_", "PBS_", "LSB_", "OMPI_COMM_", "PMIX_RANK", "PMIX_NAMESPACE", "PMIX_SERVER", "PMI_")


@dataclass(frozen=True)
class Mpirun:
    """An `mpirun` of this machine: its path, whose it is, and its major version (0 if it does not tell)."""

    path: str
    is_open_mpi: bool
    major: int


def find(python: str = sys.executable) -> Mpirun:
    """The mpirun beside the interpreter `python`, else the first on PATH.

    Beside it is the one of the library that mpi4py of that environment loads. Raises `EnvironmentMismatch` if
    there is none, or it cannot be run.
    """
    beside = Path(python).parent / "mpirun"  # not resolved: an environment's python is a link to the system's
    path = str(beside) if os.access(beside, os.X_OK) else shutil.which("mpirun")
    if path is None:
        raise EnvironmentMismatch(
            f"there is no mpirun in {beside.parent} or on PATH; load your site's MPI module, or on one "
            "machine: pip install 'moec[local]'"
        )
    try:
        ran = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentMismatch(f"{path} --version does not run: {error}") from error
    version = re.search(r"(\d+)\.\d+", ran.stdout)
    return Mpirun(path, "Open MPI" in ran.stdout, int(version[1]) if version else 0)


def command(
    n: int, argv: Sequence[str], python: str = sys.executable, *, elastic: bool = False
) -> tuple[list[str], dict[str, str]]:
    """The command line and the environment that start `n` ranks of `argv` on this machine.

    Variables that the user has set are left alone. `elastic`: the job outlives a lost rank. Raises
    EnvironmentMismatch where the MPI cannot do that.
    """
    mpirun = find(python)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)}
    settings = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // n))}
    options = []
    if mpirun.is_open_mpi:
        settings |= _open_mpi_settings(mpirun.major)
        options = [
            "--bind-to",
            "none",
        ]  # by default two ranks are bound to one core each, with all their threads
    if elastic:
        if not mpirun.is_open_mpi or mpirun.major < 5:
            raise EnvironmentMismatch(f"--elastic needs Open MPI 5 or later: {mpirun.path} is another")
        options = ["--with-ft", "ulfm", *options]
    return [mpirun.path, "-n", str(n), *options, *argv], settings | environment


def start(n: int, argv: Sequence[str], *, saves: bool = False, elastic: bool = False) -> int:
    """Run `n` ranks of `argv`, pass on the signals that this process gets, and return mpirun's exit code.

    Of ranks that save and stop at SIGUSR1 (`saves`), the first SIGTERM is made one: mpirun itself would leave
    them half a second. They end if this process is gone.

    A job that a signal ended counts as 128 plus its number, as in a shell, whether the launcher dies of it or
    makes another code of it; ranks that saved first keep their own code, 75.
    """
    line, environment = command(n, argv, elastic=elastic)
    environment[VARIABLE] = signature(os.getpid())
    # A session of its own, so that an interrupt from the terminal comes once: a second one makes mpirun kill.
    process = subprocess.Popen(line, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    received: list[int] = []

    def forward(number: int, frame: FrameType | None) -> None:
        first = number not in received
        received.append(number)
        process.send_signal(signal.SIGUSR1 if saves and first and number == signal.SIGTERM else number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    ended_by = next((number for number in received if number in ENDING), None)
    if code not in (0, ExitCode.STOPPED_EARLY) and ended_by is not None:
        return 128 + ended_by
    return code if code >= 0 else 128 - code


def _open_mpi_settings(major: int) -> Mapping[str, str]:
    """What Open MPI wants on one machine: shared memory only, leave to run as root and to share cores."""
    settings = {
        "OMPI_MCA_btl": "self,sm" if major >= 5 else "self,vader",
        # Allowed in any case: Open MPI counts cores, not hardware threads, and refuses what is one too many.
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # from 5.0
        "OMPI_MCA_rmaps_base_oversubscribe": "1",  # before
    }
    if os.geteuid() == 0:
        settings |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    return settings
