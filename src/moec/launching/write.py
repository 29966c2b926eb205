"""From what a user asks for to a script on disk, and what is said about it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from moec.runtime.abi.bundle import Bundle, read_bundle
from moec.runtime.data.files import written_whole
from moec.runtime.errors import UserError, printable
from moec.runtime.rehearsal import rehearse
from moec.runtime.schedule import steps_to_do

from . import estimate, fit
from .asked import Asked, allocation_of, start_of
from .quoting import UnquotableError
from .render import render
from .request import Allocation
from .traffic import crossings, warning

_NO_LIMIT = 1 << 62
_SUBMIT = {"slurm": "sbatch {}", "pbs": "qsub {}", "lsf": "bsub < {}", "mpirun": "bash {}"}


def write_script(asked: Asked) -> list[str]:
    """Write the script; the lines that a user is told. Raises UserError, and nothing is written."""
    bundle = read_bundle(asked.bundle)
    allocation, start = allocation_of(asked, bundle.manifest), start_of(asked)
    fit.check_ranks(allocation, bundle.manifest, str(asked.bundle))
    fit.check_time(allocation)
    fit.check_gpus(allocation, asked.run.get("transport"))
    peak = rehearse(bundle, _NO_LIMIT)
    fit.check_memory(allocation, asked.run.get("transport"), peak.peak_bytes)
    told = [*_told(asked, allocation, bundle), fit.memory_line(peak.peak_bytes)]
    try:
        text = render(allocation, start)
    except UnquotableError as error:
        raise UserError(str(error)) from error
    with written_whole(asked.script) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
    return [printable(line) for line in told]


def _told(asked: Asked, allocation: Allocation, bundle: Bundle) -> Iterator[str]:
    manifest = bundle.manifest
    shape = f"{allocation.nodes} x {allocation.ranks_per_node}"
    yield f"{manifest.model}: {allocation.ranks} ranks, {shape}, in {asked.script}"
    yield f"  start it with: {_SUBMIT[allocation.scheduler].format(shlex.quote(str(asked.script)))}"
    for crossing in crossings(bundle, allocation.ranks_per_node):
        yield warning(crossing, allocation.ranks_per_node)
    yield from estimate.lines(allocation, manifest, _steps(asked, bundle), _basis(asked))


def _steps(asked: Asked, bundle: Bundle) -> int | None:
    """Those of the run, or as many as its `--steps` says; None where that depends on the data."""
    wanted, of_run = asked.run.get("steps"), bundle.manifest.training.steps
    return wanted if of_run is None else steps_to_do(wanted, of_run)


def _basis(asked: Asked) -> estimate.Basis | None:
    if asked.step_s is not None and asked.like is not None:
        raise UserError("--step-s and --like are two answers to one question: give one")
    if asked.like is not None:
        return estimate.measured(asked.like)
    return None if asked.step_s is None else estimate.Basis(asked.step_s, "as given")
