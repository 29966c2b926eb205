"""check, fmt, models, explain, lsp: the language alone, without torch."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from moec import dsl, models, specs
from moec.cli import checking

Specification = Annotated[
    str, typer.Argument(metavar="SPEC", help="A .moe file, or the name of a shipped model.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a value of the text. May be repeated."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    """Register the commands."""
    app.command()(check)
    app.command()(fmt)
    app.command(name="models")(list_models)
    app.command()(explain)
    app.command()(lsp)


def load(spec: str, overrides: list[str] | None = None) -> dsl.Spec:
    """A spec by path or shipped name. Raises SourceErrors."""
    return specs.load(spec, overrides or ())


def check(spec: Specification, overrides: Overrides = None, as_json: AsJson = False) -> int:
    """Report every mistake of a spec, or its parameter counts."""
    return checking.check(spec, overrides or (), as_json)


def fmt(
    texts: Annotated[
        list[str], typer.Argument(metavar="SPEC...", help=".moe files, or names of shipped models.")
    ],
    only_check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit 1 and name the files that would change.")
    ] = False,
    explicit: Annotated[
        bool, typer.Option("--explicit", help="Print the text with every default in full.")
    ] = False,
) -> int:
    """Bring files into canonical form, in place; a shipped model is printed."""
    if explicit and only_check:
        raise typer.BadParameter("--check and --explicit do not go together")
    if explicit and len(texts) > 1:
        raise typer.BadParameter("--explicit prints one text")
    if explicit:
        print(dsl.explicit_text(load(texts[0])), end="")
        return 0
    return max([_format(text, only_check) for text in texts])


def _format(spec: str, only_check: bool) -> int:
    """One file; one with mistakes is told of and left as it is, so that the others get their turn."""
    path, shipped = Path(spec), models.read(spec)
    try:
        text = dsl.read_text(path) if shipped is None or path.is_file() else shipped[1]
        formatted = dsl.format_text(text, spec)
    except dsl.SourceErrors as errors:
        return checking.refuse(errors)
    if only_check:
        if formatted != text:
            print(f"{spec} is not in canonical form: run moec fmt {spec}", file=sys.stderr)
        return int(formatted != text)
    if not path.is_file():
        print(formatted, end="")
    elif formatted != text:
        _replace_text(path, formatted)
    return 0


def _replace_text(path: Path, text: str) -> None:
    """Write a file anew, whole or not at all; links are followed and the mode is kept."""
    from moec.runtime.data.files import written_whole

    target = path.resolve()
    with written_whole(target) as file:
        os.fchmod(file.fileno(), target.stat().st_mode)
        file.write(text.encode())


def list_models(as_json: AsJson = False) -> int:
    """List the shipped models with their total and active parameters."""
    summaries = [dsl.summary(load(name)) | {"name": name} for name in models.names()]
    if as_json:
        print(json.dumps(summaries, indent=1))
        return 0
    for entry in summaries:
        print(
            f"{entry['name']:<18} {entry['parameters']:>18,} parameters "
            f"{entry['active_parameters']:>16,} active"
        )
    return 0


def explain(
    code: Annotated[str, typer.Argument(metavar="CODE", help="An error code, such as MOE0123.")],
) -> int:
    """Explain an error code."""
    text = dsl.explain(code)
    if text is None:
        print(f"there is no error code {code}", file=sys.stderr)
        return 1
    print(text)
    return 0


def lsp(
    stdio: Annotated[  # editors give it; there is no other way to speak
        bool, typer.Option("--stdio", hidden=True)
    ] = True,
) -> int:
    """Serve an editor: the language server, over standard input and output."""
    del stdio
    if find_spec("pygls") is None:
        print("moec: error: the language server needs pygls: pip install 'moec[lsp]'", file=sys.stderr)
        return 1
    from moec.lsp.server import serve

    serve()
    return 0
