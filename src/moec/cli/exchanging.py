"""import, export, logits: published checkpoints, and reading a model out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moec import models

Source = Annotated[
    Path, typer.Argument(metavar="RUN|DIR", help="A finished run, or what `moec import` made.")
]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command(name="import")(import_checkpoint)
    app.command()(export)
    app.command()(logits)


def import_checkpoint(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="HF_DIR", help="A folder with config.json and safetensors.")
    ],
    out: Annotated[Path, typer.Option("-o", "--out", metavar="DIR", help="Gets model.moe and weights.")],
    spec: Annotated[
        str | None,
        typer.Option("--spec", metavar="SPEC", help="The model, if its family is not a shipped one."),
    ] = None,
) -> int:
    """Read a Hugging Face checkpoint into a .moe file and weights."""
    from moec.cli.exchange.import_hf import import_checkpoint as run

    found = run(checkpoint, out, spec=spec, find_model=models.read)
    print(f"{found.model.name}: written to {out}")
    return 0


def export(
    source: Source,
    to: Annotated[Path, typer.Option("--to", metavar="HF_DIR", help="Gets config.json and safetensors.")],
) -> int:
    """Write weights as a Hugging Face checkpoint."""
    from moec.cli.exchange.export_hf import export_checkpoint

    export_checkpoint(source, to)
    print(f"written to {to}")
    return 0


def logits(
    source: Source,
    ids: Annotated[
        Path, typer.Option("--ids", metavar="FILE.json", help="A JSON list of equally long lists of ids.")
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FILE", help="Gets `logits`, float32 (B, S, vocab).")
    ],
) -> int:
    """Run a model on token ids, on this process alone."""
    from moec.cli.exchange.logits import logits as run

    run(source, ids, out)
    print(f"written to {out}")
    return 0
