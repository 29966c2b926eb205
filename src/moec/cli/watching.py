"""status, watch: looking at a run from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moec.cli.language import AsJson

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(status)
    app.command()(watch)


def status(run: Run, as_json: AsJson = False) -> int:
    """How far a run is and whether it goes on. Ends with the run's exit code; 88 if it is probably dead."""
    import json

    from moec.runtime.viewing.look import look_at
    from moec.runtime.viewing.words import data, lines

    look = look_at(run)
    print(json.dumps(data(look), indent=1, allow_nan=False) if as_json else "\n".join(lines(look)))
    return look.exit_code


def watch(
    run: Run,
    once: Annotated[
        bool, typer.Option("--once", help="One picture, as text; so without a terminal.")
    ] = False,
) -> int:
    """Show a run while it goes on, until it ends. Ends with its exit code."""
    from moec.runtime.viewing.following import follow

    return follow(run, once=once)
