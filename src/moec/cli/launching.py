"""launch: a job script for a scheduler, from a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from moec.cli import launch_options as options
from moec.runtime.errors import UserError


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(launch)


def launch(
    bundle: options.Bundle,
    scheduler: options.Scheduler,
    nodes: options.Nodes,
    ranks_per_node: options.RanksPerNode,
    script: options.Script,
    run_options: options.RunOptions = None,
    out: options.Out = None,
    time: options.Time = None,
    signal_lead: options.SignalLead = "180s",
    requeue: options.Requeue = True,
    most_restarts: options.MostRestarts = 100,
    queue: options.Queue = None,
    account: options.Account = None,
    name: options.Name = None,
    gpus_per_node: options.GpusPerNode = None,
    cpus_per_rank: options.CpusPerRank = 1,
    memory: options.Memory = None,
    bind: options.Bind = "core",
    srun: options.Starter = None,
    mpi: options.Mpi = None,
    hosts: options.Hosts = None,
    modules: options.Modules = None,
    setup: options.Setup = None,
    directives: options.Directives = None,
    folder: options.Folder = None,
    python: options.Python = None,
    step_s: options.StepSeconds = None,
    like: options.Like = None,
) -> int:
    """Write a job script that resumes by itself; say what crosses nodes, and what the job will take.

    Options of `moec run` follow after `--`, as in `moec launch BUNDLE ... -o job.sh -- --data corpus.txt`.
    """
    asked: dict[str, Any] = dict(locals())  # the options, by the names that `Asked` has for them
    from moec.launching.asked import Asked
    from moec.launching.write import write_script

    run = _run_parameters(bundle, run_options or [])
    for line in write_script(Asked(**asked, run=run)):
        print(line)
    return 0


def _run_parameters(bundle: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """What `moec run` makes of its options. A slip in them is found here, not when the job starts."""
    from moec.cli.main import app

    command = typer.main.get_command(app).commands["run"]  # type: ignore[attr-defined]
    found: dict[str, Any] = command.make_context("moec run", [str(bundle), *arguments]).params
    for name, option in (("out", "--out"), ("processes", "-n"), ("overrides", "--set")):
        if found.get(name):
            raise UserError(f"{option} after `--`: {_INSTEAD[name]}")
    return found


_INSTEAD = {
    "out": "give it before, to `moec launch`",
    "processes": "the script starts the ranks",
    "overrides": "it changes a spec, and this is a bundle, which is compiled already",
}
