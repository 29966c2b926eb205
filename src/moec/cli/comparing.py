"""diff: what is different between two specs, by what they mean."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from moec import dsl
from moec.cli.language import AsJson, load

DIFFERENT, TROUBLE = 1, 2  # exit codes, as diff(1) has them


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command()(diff)


def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A .moe file, or the name of a shipped model.")],
    after: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    as_json: AsJson = False,
) -> int:
    """Compare what two specs mean; exit 0 if it is the same, 1 if not, 2 if one of them is wrong.

    Values are given by their paths, parameters by name and shape. The layout of the texts, their comments and
    the order of their settings make no difference.
    """
    from moec.dsl.compare import compare, data, text

    try:
        found = compare(_spec(before), _spec(after))
    except dsl.SourceErrors as errors:
        print(dsl.render_text(errors.diagnostics), file=sys.stderr)
        return TROUBLE
    print(json.dumps(data(found), indent=1) + "\n" if as_json else text(found), end="")
    return DIFFERENT if found else 0


def _spec(name: str) -> dsl.Spec:
    if (Path(name) / "manifest.json").is_file():
        raise typer.BadParameter(f"{name} is a bundle: comparing bundles is not supported yet")
    return load(name)
