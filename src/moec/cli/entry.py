"""Where `moec` starts: `check` at once, everything else by way of the library of the command line.

Editors, hooks and scripts check many texts, so `moec check SPEC` does not wait for that library: it is read
here where its arguments are plain ones, and does what the command does.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moec.cli.checking import check, refuse
from moec.dsl import SourceErrors


@dataclass(frozen=True)
class PlainCheck:
    """The arguments of `moec check SPEC [--set PATH=VALUE]... [--json]`."""

    spec: str
    overrides: tuple[str, ...]
    as_json: bool


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code."""
    plain = plain_check(arguments)
    code = _checked(plain) if plain is not None else None
    gc.freeze()  # what is there now stays to the end, so that nothing goes through it on the way out
    if code is not None:
        return code
    from moec.cli.main import run as run_command

    return run_command(arguments)


def _checked(plain: PlainCheck) -> int | None:
    """The exit code; None where the command has to say what went wrong, as with a closed pipe."""
    try:
        return check(plain.spec, plain.overrides, plain.as_json)
    except SourceErrors as errors:
        return refuse(errors)
    except OSError:
        return None


def plain_check(arguments: Sequence[str]) -> PlainCheck | None:
    """The arguments, if they are those of a check and nothing has to be said about them."""
    if not arguments or arguments[0] != "check":
        return None
    specs: list[str] = []
    overrides: list[str] = []
    as_json = False
    rest = iter(arguments[1:])
    for argument in rest:
        if argument == "--json":
            as_json = True
        elif argument.startswith("--set"):
            override = _override(argument, rest)
            if override is None:
                return None
            overrides.append(override)
        elif argument.startswith("-"):
            return None
        else:
            specs.append(argument)
    return PlainCheck(specs[0], tuple(overrides), as_json) if len(specs) == 1 else None


def _override(argument: str, rest: Iterator[str]) -> str | None:
    """The value of `--set VALUE` or `--set=VALUE`."""
    if argument == "--set":
        return next(rest, None)
    return argument.removeprefix("--set=") if argument.startswith("--set=") else None
