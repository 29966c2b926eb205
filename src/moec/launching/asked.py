"""What a user asks for, as it was written, and as values that are checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moec.runtime.abi.manifest import Manifest
from moec.runtime.errors import EnvironmentMismatch, UserError
from moec.runtime.mpirun import find

from . import legal
from .request import Allocation, Binding, MpiFamily, Scheduler, Start, Starter


@dataclass(frozen=True)
class Asked:
    """The options of `moec launch`, and in `run` what `moec run` makes of those after `--`."""

    bundle: Path
    scheduler: Scheduler
    nodes: int
    ranks_per_node: int
    script: Path
    run_options: list[str] | None
    out: str | None
    time: str | None
    signal_lead: str
    requeue: bool
    most_restarts: int
    queue: str | None
    account: str | None
    name: str | None
    gpus_per_node: int | None
    cpus_per_rank: int
    memory: str | None
    bind: Binding
    srun: bool | None
    mpi: MpiFamily | None
    hosts: str | None
    modules: list[str] | None
    setup: list[str] | None
    directives: list[str] | None
    folder: Path | None
    python: str | None
    step_s: float | None
    like: Path | None
    run: Mapping[str, Any]


def allocation_of(asked: Asked, manifest: Manifest) -> Allocation:
    """What is asked of the scheduler. Raises UserError."""
    scheduler = asked.scheduler
    if asked.hosts is not None and scheduler != "mpirun":
        raise UserError(f"--hosts goes with --scheduler mpirun: {scheduler} chooses the nodes")
    if scheduler == "mpirun" and asked.nodes > 1 and asked.hosts is None:
        raise UserError(f"--scheduler mpirun with --nodes {asked.nodes} needs their names: --hosts A,B")
    return Allocation(
        scheduler=scheduler,
        nodes=asked.nodes,
        ranks_per_node=asked.ranks_per_node,
        name=_name(asked, manifest),
        time_s=None if asked.time is None else legal.seconds(asked.time, "--time"),
        lead_s=legal.lead(asked.signal_lead),
        most_restarts=asked.most_restarts if asked.requeue else 0,
        queue=None if asked.queue is None else legal.words(asked.queue, "--partition"),
        account=None if asked.account is None else legal.words(asked.account, "--account"),
        gpus_per_node=asked.gpus_per_node,
        cpus_per_rank=asked.cpus_per_rank,
        memory_mib=None if asked.memory is None else legal.mebibytes(asked.memory),
        hosts=() if asked.hosts is None else legal.hosts(asked.hosts, asked.nodes),
        directives=tuple(legal.one_line(line, "--directive") for line in asked.directives or ()),
    )


def start_of(asked: Asked) -> Start:
    """How the ranks are started. Raises UserError."""
    if asked.srun and asked.scheduler != "slurm":
        raise UserError(f"--srun is Slurm's: {asked.scheduler} starts ranks with mpirun")
    starter: Starter = "srun" if asked.scheduler == "slurm" and asked.srun is not False else "mpirun"
    python = asked.python or sys.executable
    mpi, elastic = asked.mpi or _mpi_of(python), bool(asked.run.get("elastic"))
    if elastic and (starter, mpi) != ("mpirun", "openmpi"):
        raise UserError(f"--elastic needs Open MPI's mpirun, not {starter} of {mpi}: --mpirun --mpi openmpi")
    return Start(
        starter=starter,
        mpi=mpi,
        mpirun=_mpirun(python, mpi),
        python=python,
        bind=asked.bind,
        folder=str((asked.folder or Path()).absolute()),
        script=str(asked.script.absolute()),
        bundle=str(asked.bundle),
        out=asked.out or str(Path("runs") / asked.bundle.name),
        run_options=_without_resume(asked.run_options or []),
        modules=tuple(legal.one_line(name, "--module") for name in asked.modules or ()),
        setup=tuple(legal.one_line(line, "--setup") for line in asked.setup or ()),
        elastic=elastic,
    )


def _name(asked: Asked, manifest: Manifest) -> str:
    if asked.name is None:
        return legal.nearest_name(manifest.model, asked.scheduler)
    return legal.job_name(asked.name, asked.scheduler)


def _mpi_of(python: str) -> MpiFamily:
    """The MPI whose mpirun is beside the interpreter, or on PATH. Raises UserError where none tells."""
    try:
        return "openmpi" if find(python).is_open_mpi else "mpich"
    except EnvironmentMismatch as error:
        raise UserError(f"give --mpi, whose MPI the job will use: {error}") from error


def _mpirun(python: str, mpi: MpiFamily) -> str:
    """The one of the interpreter's environment; else the first on the PATH that the job has."""
    name = "mpiexec.hydra" if mpi == "intel" else "mpirun"
    beside = Path(python).parent / name
    return str(beside) if beside.is_absolute() and os.access(beside, os.X_OK) else name


def _without_resume(options: list[str]) -> tuple[str, ...]:
    """The script gives `--resume` in any case."""
    return tuple(option for option in options if option != "--resume")
