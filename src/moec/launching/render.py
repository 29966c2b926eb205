"""Writing the script: templates of this package, values through filters, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files

from jinja2 import FunctionLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from moec import __version__

from .quoting import FILTERS, Quoted
from .request import Allocation, Start


def render(allocation: Allocation, start: Start) -> str:
    """The job script. Raises UnquotableError where a value cannot stand in one."""
    template = _environment().get_template(f"{allocation.scheduler}.sh.j2")
    return template.render(job=allocation, start=start, version=__version__)


@cache
def _environment() -> ImmutableSandboxedEnvironment:
    """Undefined names are errors, and so is a value that no filter has quoted."""
    environment = ImmutableSandboxedEnvironment(
        loader=FunctionLoader(_source),
        undefined=StrictUndefined,
        finalize=_only_quoted,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    filters: dict[str, Callable[..., object]] = environment.filters
    filters.clear()
    filters.update(FILTERS)
    return environment


def _source(name: str) -> str:
    return files("moec.launching").joinpath("templates", name).read_text(encoding="utf-8")


def _only_quoted(value: object) -> object:
    if not isinstance(value, Quoted):
        raise TypeError(f"a template writes {value!r}, which no filter has quoted")
    return value
