"""The options of `moec launch`, as typer reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Bundle = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle, as the job will find it.")]
RunOptions = Annotated[
    list[str] | None, typer.Argument(metavar="[-- RUN OPTIONS]", help="Options of `moec run`: --data ...")
]
Scheduler = Annotated[
    Literal["slurm", "pbs", "lsf", "mpirun"],
    typer.Option("--scheduler", help="Whose script: Slurm, PBS Pro, LSF, or mpirun without a scheduler."),
]
Nodes = Annotated[int, typer.Option("--nodes", min=1, max=1 << 20, help="Nodes of the job.")]
RanksPerNode = Annotated[
    int, typer.Option("--ranks-per-node", min=1, max=1 << 16, help="Ranks on each node.")
]
Script = Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Where the script goes.")]
Out = Annotated[
    str | None, typer.Option("--out", metavar="DIR", help="Folder of the run. Default: runs/<name>.")
]
Time = Annotated[
    str | None,
    typer.Option("--time", metavar="HH:MM:SS", help="Wall time of a job; 90m and 1d12h are times, too."),
]
SignalLead = Annotated[
    str, typer.Option("--signal-lead", metavar="TIME", help="How long before its end ranks save and stop.")
]
Requeue = Annotated[
    bool, typer.Option("--requeue/--no-requeue", help="Whether the job goes on after an early stop.")
]
MostRestarts = Annotated[int, typer.Option("--max-restarts", min=1, max=100_000, help="How often at most.")]
Queue = Annotated[
    str | None, typer.Option("--partition", "--queue", metavar="NAME", help="Slurm's partition, or a queue.")
]
Account = Annotated[
    str | None, typer.Option("--account", metavar="NAME", help="The account or project that pays.")
]
Name = Annotated[str | None, typer.Option("--name", help="Name of the job. Default: the model's.")]
GpusPerNode = Annotated[
    int | None, typer.Option("--gpus-per-node", min=1, max=1 << 16, help="GPUs of each node.")
]
CpusPerRank = Annotated[
    int,
    typer.Option("--cpus-per-rank", min=1, max=1 << 16, help="Cores of a rank, and its OMP_NUM_THREADS."),
]
Memory = Annotated[str | None, typer.Option("--mem", metavar="64G", help="Memory of each node.")]
Bind = Annotated[Literal["core", "socket", "none"], typer.Option("--bind", help="What ranks are bound to.")]
Starter = Annotated[
    bool | None, typer.Option("--srun/--mpirun", help="What starts the ranks. Default: srun under Slurm.")
]
Mpi = Annotated[
    Literal["openmpi", "mpich", "intel"] | None,
    typer.Option("--mpi", help="Whose MPI the job uses. Default: that of the mpirun found here."),
]
Hosts = Annotated[
    str | None, typer.Option("--hosts", metavar="A,B", help="With --scheduler mpirun: the nodes by name.")
]
Modules = Annotated[
    list[str] | None, typer.Option("--module", metavar="NAME", help="`module load NAME`, in this order.")
]
Setup = Annotated[
    list[str] | None, typer.Option("--setup", metavar="LINE", help="A line of shell before the run.")
]
Directives = Annotated[
    list[str] | None,
    typer.Option("--directive", metavar="TEXT", help="More for the scheduler, such as `--qos=high`."),
]
Folder = Annotated[
    Path | None, typer.Option("--chdir", metavar="DIR", help="Where the job runs. Default: here.")
]
Python = Annotated[
    str | None, typer.Option("--python", metavar="PATH", help="The job's interpreter. Default: this one.")
]
StepSeconds = Annotated[
    float | None, typer.Option("--step-s", min=1e-6, help="Seconds a step, to estimate node-hours.")
]
Like = Annotated[
    Path | None, typer.Option("--like", metavar="RUN", help="A run to take seconds a step from.")
]
