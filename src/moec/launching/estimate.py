"""Node-hours: seconds a step, given or measured, times steps. There is no model of costs behind it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from moec.runtime.abi.manifest import Manifest
from moec.runtime.errors import UserError
from moec.runtime.record.metrics import read_metrics
from moec.runtime.record.status import read_status

from .request import Allocation

METRICS = "metrics.jsonl"
STATUS = "run_status.json"
_WARM_UP = 2
"""Steps at the start of a run that are not like the rest."""


@dataclass(frozen=True)
class Basis:
    """Seconds a step, and where they are from. `ranks` is None where nothing was measured."""

    step_s: float
    source: str
    ranks: int | None = None


def measured(run: Path) -> Basis:
    """The median of the steps of a run, but for its first ones. Raises UserError where there are none."""
    path = run / METRICS
    if not path.is_file():
        raise UserError(f"--like {run}: there is no {METRICS}, so it is no run")
    times = [step.step_s for step in read_metrics(path)]
    times = times[_WARM_UP:] or times
    if not times:
        raise UserError(f"--like {run}: {METRICS} has no step")
    ranks = read_status(run / STATUS).world if (run / STATUS).is_file() else None
    return Basis(median(times), f"the median of {len(times)} steps of {run}", ranks)


def lines(allocation: Allocation, manifest: Manifest, steps: int | None, basis: Basis | None) -> list[str]:
    """What the job takes, as lines for people: steps, hours, node-hours, and how many jobs that is."""
    if basis is None:
        return ["node-hours: no basis: give --step-s SECONDS, or --like RUN, a run that has been measured"]
    if steps is None:
        return [
            f"node-hours: {basis.step_s:.4g} s a step, {basis.source}; how many steps "
            f"{manifest.training.epochs} epochs are depends on the data"
        ]
    total_s = steps * basis.step_s
    hours = total_s / 3600
    told = [
        f"node-hours: {steps:,} steps x {basis.step_s:.4g} s x {allocation.nodes} nodes = "
        f"{hours * allocation.nodes:,.4g} ({hours:,.4g} h; {basis.source})"
    ]
    if basis.ranks is not None and basis.ranks != allocation.ranks:
        told.append(
            f"  measured with {basis.ranks} ranks, and this job has {allocation.ranks}: take it as a guess"
        )
    if allocation.time_s is not None:
        jobs = -(-total_s // (allocation.time_s - allocation.lead_s))
        one_h = f"{allocation.time_s / 3600:.4g} h"
        told.append(
            f"  {jobs:.0f} jobs of {one_h}, each but the last stopped early and saved"
            if jobs > 1
            else f"  it fits into one job of {one_h}"
        )
    return told
