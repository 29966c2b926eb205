"""The commands of `moec`, and how their failures become messages and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer
from typer.exceptions import TyperException

from moec import __version__
from moec.cli import (
    checkpoints,
    comparing,
    compiling,
    datasets,
    evaluating,
    exchanging,
    language,
    launching,
    running,
    watching,
)
from moec.cli.checking import refuse
from moec.dsl import SourceErrors
from moec.runtime.errors import EnvironmentMismatch, UserError, message_of
from moec.runtime.launch import discover

app = typer.Typer(
    name="moec",
    help="A declarative compiler for Mixture-of-Experts language models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for commands in (
    language,
    comparing,
    compiling,
    running,
    watching,
    datasets,
    evaluating,
    exchanging,
    checkpoints,
    launching,
):
    commands.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"moec {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Failures of the user's making are messages, not tracebacks.
    """
    try:
        result = app(list(arguments), prog_name="moec", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except SourceErrors as errors:
        return refuse(errors)
    except typer.Exit as leave:
        return leave.exit_code
    except TyperException as error:
        return _refuse(error)
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        return _report(error)


def _refuse(error: TyperException) -> int:
    """Say what is wrong with the command line: the user's input, whatever part of it, so the code is 1.

    Ranks say it together. Where each left by itself, a launcher could end the job before rank 0 has spoken.
    """
    if not _is_rank():
        _show(error)
        return 1
    from moec.runtime.guard import run_rank

    def refuse() -> int:
        raise UserError(_worded(error))

    return run_rank(refuse)


def _is_rank() -> bool:
    try:
        return discover().by_mpi
    except EnvironmentMismatch:
        return False


def _show(error: TyperException) -> None:
    """A wrong command line, as typer words it: its usage errors know how."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
    else:
        print(f"moec: error: {message_of(error)}", file=sys.stderr)


def _worded(error: TyperException) -> str:
    """What a wrong command line is, in one sentence: usage errors keep theirs in `format_message`."""
    word = getattr(error, "format_message", None)
    return str(word()) if callable(word) else message_of(error)


def _report(error: Exception) -> int:
    """Print an error that knows its exit code; anything else is a bug of ours and shows its traceback."""
    code = getattr(error, "exit_code", 74 if isinstance(error, OSError) else None)
    if code is None:
        traceback.print_exception(error)
        print("moec: this is a bug of moec, not of your input", file=sys.stderr)
        return 70
    print(f"moec: error: {message_of(error)}", file=sys.stderr)
    return int(code)
