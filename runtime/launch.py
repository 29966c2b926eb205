"""How this process was started, as the environment tells it.

`discover` reads variables only: no MPI library is loaded for it. Variables of an MPI launcher come first,
torchrun's next and Slurm's last, and those only inside a step: in a batch script, and so in whatever `mpirun`
starts there, Slurm leaves a rank 0 that is not ours.

The module also remembers the job that this process has joined, for those who must end it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from moec.runtime.errors import EnvironmentMismatch, ForeignLauncher

if TYPE_CHECKING:  # torch takes a second to load, and who reads the environment may need none
    from moec.runtime.transport.api import Transport

Kind = Literal["openmpi", "pmix", "pmi", "torchrun", "slurm", "single"]

LAUNCHERS: dict[Kind, str] = {
    "openmpi": "Open MPI's mpirun",
    "pmix": "a PMIx launcher",
    "pmi": "a PMI launcher (mpirun of MPICH or Intel MPI, or srun --mpi=pmi2)",
    "torchrun": "torchrun",
    "slurm": "srun",
    "single": "no launcher",
}
current_job: ContextVar[Transport | None] = ContextVar("current_job", default=None)
"""The transport that this process has joined a job with, set by the transport: the way to end that job."""


@dataclass(frozen=True)
class Launch:
    """This process among those started together. `world` is None where the launcher does not tell."""

    rank: int
    world: int | None
    local_rank: int
    kind: Kind

    @property
    def by_mpi(self) -> bool:
        """Whether the ranks of the job are meant to meet through MPI."""
        return self.kind not in ("torchrun", "single")

    @property
    def launcher(self) -> str:
        """What started this process, for messages."""
        return LAUNCHERS[self.kind]


@dataclass(frozen=True)
class _Variables:
    """The names of what one kind of launcher sets. It is present if `rank` and all of `also` are set."""

    kind: Kind
    rank: str
    world: str
    local_rank: str
    also: tuple[str, ...] = ()


_KNOWN = (
    _Variables("openmpi", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    _Variables("pmix", "PMIX_RANK", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # PMIx itself names no size
    _Variables("pmi", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    _Variables("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", also=("MASTER_ADDR", "MASTER_PORT")),
    _Variables("slurm", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", also=("SLURM_STEP_ID",)),
)


def discover(environment: Mapping[str, str] = os.environ) -> Launch:
    """What the environment says. Without any launcher's variables, one process by itself."""
    for names in _KNOWN:
        if all(name in environment for name in (names.rank, *names.also)):
            rank = _integer(environment, names.rank) or 0
            world = _integer(environment, names.world)
            return Launch(rank, world, _integer(environment, names.local_rank) or 0, names.kind)
    return Launch(0, 1, 0, "single")


def _integer(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is None:
        return None
    if not text.isdecimal():
        raise EnvironmentMismatch(
            f"the environment variable {name} is {text!r}, not a number of a rank or ranks"
        )
    return int(text)


def check_library(launch: Launch, library: str) -> None:
    """Refuse an MPI library that this launcher cannot start, before its initialisation aborts."""
    if launch.kind == "openmpi" and any(name in library for name in ("MPICH", "MVAPICH", "Intel")):
        raise ForeignLauncher(f"{_started_by(launch)}, but mpi4py uses {library}. {_advice()}")


def check_world(launch: Launch, transport: Transport) -> None:
    """Refuse a job whose ranks do not see each other: launcher and library are not of one MPI."""
    if launch.kind == "single" or launch.world in (None, transport.world):
        return
    raise ForeignLauncher(
        f"{_started_by(launch)} as one of {launch.world}, but the {transport.name} transport "
        f"({transport.library}) sees {transport.world}. {_advice()}"
    )


def _started_by(launch: Launch) -> str:
    """Launcher and, where the system tells, the program that it is."""
    try:
        parent = f" ({os.readlink(f'/proc/{os.getppid()}/exe')})"
    except OSError:
        parent = ""
    return f"{launch.launcher}{parent} started this process"


def _advice() -> str:
    mpirun = Path(sys.prefix) / "bin" / "mpirun"
    own = f", such as {mpirun}" if mpirun.exists() else ""
    return (
        f"Start the ranks with the mpirun of the MPI that mpi4py uses{own}, or with srun --mpi=pmix for "
        "Open MPI, srun --mpi=pmi2 for MPICH and Intel MPI"
    )
