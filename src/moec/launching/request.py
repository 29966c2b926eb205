"""What a job script is made of: values that are checked and of one form, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Scheduler = Literal["slurm", "pbs", "lsf", "mpirun"]
Starter = Literal["srun", "mpirun"]
MpiFamily = Literal["openmpi", "mpich", "intel"]
Binding = Literal["core", "socket", "none"]


@dataclass(frozen=True)
class Allocation:
    """What is asked of a scheduler. Names and amounts are legal ones; times are in seconds.

    `time_s` is None where nobody ends the job. `lead_s` is how long before its end ranks are told to save and
    stop. `most_restarts` is 0 where a job that stopped early stays stopped.
    """

    scheduler: Scheduler
    nodes: int
    ranks_per_node: int
    name: str
    time_s: int | None = None
    lead_s: int = 180
    most_restarts: int = 100
    queue: str | None = None
    account: str | None = None
    gpus_per_node: int | None = None
    cpus_per_rank: int = 1
    memory_mib: int | None = None  # of a node
    hosts: tuple[str, ...] = ()
    directives: tuple[str, ...] = ()

    @property
    def ranks(self) -> int:
        """All ranks of the job."""
        return self.nodes * self.ranks_per_node


@dataclass(frozen=True)
class Start:
    """How ranks are started, and with what. Texts are as the user gave them: the templates quote them.

    `mpirun` is a path, or a name to be looked for; `setup` are lines of shell, `modules` are loaded first.
    """

    starter: Starter
    mpi: MpiFamily
    mpirun: str
    python: str
    bind: Binding
    folder: str
    script: str
    bundle: str
    out: str
    run_options: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    elastic: bool = False
