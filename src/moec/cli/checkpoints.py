"""checkpoint ls, verify, convert, replan: the checkpoints of runs, offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from moec.cli.language import AsJson
from moec.runtime.errors import ExitCode, UserError

app = typer.Typer(
    name="checkpoint", help="List, verify, convert and replan checkpoints.", no_args_is_help=True
)
Folder = Annotated[
    Path, typer.Argument(metavar="DIR|RUN", help="A checkpoint's folder, or a run: its newest.")
]


def add_to(app_of_moec: typer.Typer) -> None:
    """Register the commands."""
    app_of_moec.add_typer(app)


@app.command(name="ls")
def list_all(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    as_json: AsJson = False,
) -> int:
    """The checkpoints of a run: steps, times, layouts and sizes."""
    from moec.runtime.checkpoint import folders
    from moec.runtime.checkpoint.inspect import checkpoints_of, listed

    root = checkpoints_of(run)
    found, unfinished = listed(root), [path.name for path in folders.unfinished(root)]
    if as_json:
        print(
            json.dumps({"folder": str(root), "checkpoints": [*map(_data, found)], "unfinished": unfinished})
        )
        return 0
    for one in found:
        print(_line(one))
    for name in unfinished:
        print(f"{name}  unfinished")
    if not found:
        print(f"no complete checkpoint in {root}")
    return 0


@app.command()
def verify(folder: Folder, as_json: AsJson = False) -> int:
    """Read every file, compare it with its SHA-256, and prove that every element is there once."""
    from moec.runtime.checkpoint.inspect import checkpoint_at, problems

    path = checkpoint_at(folder)
    if not path.is_dir():
        raise UserError(f"there is no folder {path}")
    found = [*problems(path)]
    if as_json:
        print(json.dumps({"folder": str(path), "whole": not found, "problems": found}))
    else:
        for problem in found:
            print(problem)
        if not found:
            print(f"{path} is whole")
    return ExitCode.INTEGRITY if found else 0


@app.command()
def convert(
    folder: Folder,
    to: Annotated[
        Literal["weights", "huggingface"],
        typer.Option(
            "--to", help="weights: model.moe and weights, as of a finished run; or a HF checkpoint."
        ),
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="NEW_DIR", help="Must not exist yet.")],
) -> int:
    """Write the parameters of a checkpoint, without the optimizer's state, as weights."""
    from moec.cli.exchange.checkpoint_weights import to_huggingface, to_weights
    from moec.runtime.checkpoint.inspect import checkpoint_at

    (to_weights if to == "weights" else to_huggingface)(checkpoint_at(folder), out)
    print(f"written to {out}")
    return 0


@app.command()
def replan(
    folder: Folder,
    bundle: Annotated[
        Path, typer.Option("--bundle", metavar="BUNDLE", help="Of the same model, for other ranks.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="RUN", help="The run that is to go on: gets checkpoints/.")
    ],
) -> int:
    """Rewrite a checkpoint as the ranks of another plan would have written it."""
    from moec.runtime.abi.bundle import read_bundle
    from moec.runtime.checkpoint.inspect import checkpoint_at
    from moec.runtime.checkpoint.load import Checkpoint
    from moec.runtime.checkpoint.replan import replan as run
    from moec.runtime.record.recorder import CHECKPOINTS

    written = run(Checkpoint(checkpoint_at(folder)), read_bundle(bundle), out / CHECKPOINTS)
    print(f"written to {written}: `moec run {bundle} --out {out} --resume` goes on from there")
    return 0


def _data(one: Any) -> dict[str, Any]:
    """A checkpoint for programs."""
    facts: dict[str, Any] = {"step": one.step, "folder": str(one.folder), "problem": one.problem}
    if one.manifest is not None:
        mesh = one.manifest.mesh
        facts |= {
            "steps": one.manifest.steps,
            "saved": one.manifest.saved,
            "model": one.manifest.model,
            "world": one.manifest.world,
            "expert": mesh.expert,
            "shard": mesh.shard,
            "replicate": mesh.replicate,
            "expert_shard": mesh.expert_shard,
            "bytes": one.size_bytes,
        }
    return facts


def _line(one: Any) -> str:
    """And for people."""
    if one.manifest is None:
        return f"step {one.step:>8}  damaged: {one.problem}"
    mesh = one.manifest.mesh
    ranks = f"{mesh.world} rank{'s' * (mesh.world > 1)}"
    layout = f"{ranks} (expert {mesh.expert}, shard {mesh.shard}, replicate {mesh.replicate})"
    return f"step {one.step:>8}  {one.manifest.saved}  {one.size_bytes / 1e6:>10.1f} MB  {layout}"
