"""What can be said of a run by what it has left in its folder: how far it is, and whether it goes on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from moec.runtime.checkpoint.folders import complete_steps
from moec.runtime.errors import ExitCode, IntegrityError, UserError
from moec.runtime.record.fields import MOST_COUNT
from moec.runtime.record.metrics import StepMetrics
from moec.runtime.record.names import CHECKPOINTS, METRICS, STATUS
from moec.runtime.record.status import RunStatus, read_status

from .tail import Tail

LAST_BYTES = 4 << 20
"""Of the metrics: enough for some steps of a model with many experts."""

SILENT_S, SILENT_STEPS = 60.0, 10
"""A run that goes on gives a sign of life at least in this time, or in that of so many of its steps."""

SILENT_BEFORE_STEPS_S = 1800.0
"""The same before the first step, while data are read and parameters drawn."""

MEANINGS: dict[int, str] = {
    ExitCode.DONE: "done",
    ExitCode.USER: "an option or a file that cannot be used",
    ExitCode.INTERNAL: "a bug of moec",
    ExitCode.OUT_OF_MEMORY: "out of memory",
    ExitCode.INPUT_OUTPUT: "reading or writing failed",
    ExitCode.STOPPED_EARLY: "stopped early and saved: the same command with --resume goes on",
    ExitCode.INTEGRITY: "a file is damaged",
    ExitCode.ENVIRONMENT: "started in a way that cannot work",
    ExitCode.HANG: "no progress for too long",
    ExitCode.NUMERICAL: "a loss or a gradient that is not finite",
    ExitCode.LOST_PEER: "a rank or the network went away",
    130: "interrupted",
    137: "killed",
    143: "terminated",
}


@dataclass(frozen=True)
class Look:
    """A run at one moment. `silent_s`: since its last sign of life, None once it has ended.

    `recent` are its last steps, in order; `checkpoints` the numbers of steps of those that are complete.
    """

    out: Path
    status: RunStatus
    recent: tuple[StepMetrics, ...]
    checkpoints: tuple[int, ...]
    silent_s: float | None

    @property
    def probably_dead(self) -> bool:
        """It has not said how it ended, and is silent for longer than a run should be."""
        return self.silent_s is not None and self.silent_s > patience_s(self.recent)

    @property
    def step_s(self) -> float | None:
        """Seconds of one of its last steps. It is not finite where the metrics say so."""
        return median(step.step_s for step in self.recent) if self.recent else None

    @property
    def left_s(self) -> float | None:
        """How long the rest will take, if it goes on as in the last steps."""
        if self.status.state != "running" or self.step_s is None or not math.isfinite(self.step_s):
            return None
        return self.step_s * max(self.status.steps - self.done, 0)

    @property
    def done(self) -> int:
        """Steps that are done: metrics are written at each, the status now and then."""
        return max(self.status.step, self.recent[-1].step + 1 if self.recent else 0)

    @property
    def loss(self) -> float | None:
        """Of the last step."""
        return self.recent[-1].loss if self.recent else self.status.loss

    @property
    def exit_code(self) -> int:
        """What `moec status` ends with: the run's own code; 0 while it goes on, 88 if it is probably dead."""
        if self.status.exit_code is not None:
            return self.status.exit_code
        return ExitCode.LOST_PEER if self.probably_dead else ExitCode.DONE


def look_at(out: Path, now: datetime | None = None, recent: Sequence[StepMetrics] | None = None) -> Look:
    """What is in the folder of a run now; `recent` are its last steps if they are known already.

    Raises:
        UserError: it is the folder of no run.
        IntegrityError: what is there is no record of a run.
        InputOutputError: it cannot be read.
    """
    if not (out / STATUS).is_file():
        raise UserError(f"{out} is no run: it has no {STATUS}")
    status = read_status(out / STATUS)
    if not 0 <= status.step < MOST_COUNT or not 0 <= status.steps < MOST_COUNT:
        raise IntegrityError(f"{out / STATUS}: no run has so many steps")
    if recent is None:
        recent = Tail(out / METRICS, LAST_BYTES).read()[0][-16:]
    checkpoints = complete_steps(out / CHECKPOINTS) if (out / CHECKPOINTS).is_dir() else []
    silent_s = None
    if status.state == "running":
        silent_s = max((now or datetime.now(UTC)).timestamp() - _last_sign(out, status), 0.0)
    return Look(out, status, tuple(recent), tuple(checkpoints), silent_s)


def patience_s(recent: Sequence[StepMetrics]) -> float:
    """How long a run may be silent."""
    if not recent:
        return SILENT_BEFORE_STEPS_S
    return max([SILENT_S, *(SILENT_STEPS * step.step_s for step in recent if math.isfinite(step.step_s))])


def meaning(exit_code: int) -> str:
    """An exit code in words."""
    return MEANINGS.get(exit_code, "see its output")


def _last_sign(out: Path, status: RunStatus) -> float:
    """When the record was written last, by the time in it and by that of its files."""
    try:
        said = datetime.fromisoformat(status.updated)
    except ValueError as error:
        raise IntegrityError(f"{out / STATUS}: updated is no time") from error
    if said.tzinfo is None:
        said = said.replace(tzinfo=UTC)
    metrics = out / METRICS
    return max(said.timestamp(), metrics.stat().st_mtime if metrics.is_file() else 0.0)
