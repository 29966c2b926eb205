"""The record of a run: metrics, status and display together, kept by rank 0; the other ranks keep none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from moec.runtime.errors import ExitCode
from moec.runtime.guard import describe, exit_code_of
from moec.runtime.record.metrics import MetricsWriter, StepMetrics
from moec.runtime.record.names import CHECKPOINTS as CHECKPOINTS
from moec.runtime.record.names import METRICS as METRICS
from moec.runtime.record.names import MODEL as MODEL
from moec.runtime.record.names import STATUS as STATUS
from moec.runtime.record.names import WEIGHTS as WEIGHTS
from moec.runtime.record.progress import open_progress
from moec.runtime.record.status import StatusFile
from moec.runtime.trackers.bank import Trackers


class Recorder(Protocol):
    """What a training loop tells. A context: leaving it closes files and gives the terminal back."""

    def __enter__(self) -> Recorder: ...

    def __exit__(self, *error: object) -> None: ...

    def step(self, metrics: StepMetrics) -> None:
        """A step is done."""
        ...

    def rewound(self, step: int) -> None:
        """Step `step` comes next, again: what there is of it and later ones is of no use."""
        ...

    def event(self, kind: str, text: str) -> None:
        """Something happened beside steps, a warning or a checkpoint: for trackers."""
        ...

    def complete(self, files: Mapping[str, Path]) -> None:
        """The run is complete, and these files hold what it made."""
        ...

    def stopped(self, reason: str) -> None:
        """The run has ended early, as it was wished, and its state is saved."""
        ...


class NoRecord:
    """For every rank but 0."""

    def __enter__(self) -> NoRecord:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def step(self, metrics: StepMetrics) -> None:
        """Nothing is kept."""

    def rewound(self, step: int) -> None:
        """Nothing is kept."""

    def event(self, kind: str, text: str) -> None:
        """Nothing is kept."""

    def complete(self, files: Mapping[str, Path]) -> None:
        """Nothing is kept."""

    def stopped(self, reason: str) -> None:
        """Nothing is kept."""


class RunRecord:
    """Metrics and status in `out`, progress on standard output, and trackers. Raises as the first three do.

    `done` steps were done before, by runs that this one goes on from: what the metrics have of them stays.
    """

    def __init__(
        self,
        out: Path,
        *,
        steps: int,
        world: int,
        bundle: str,
        state_bytes: Mapping[str, int],
        done: int = 0,
        trackers: Trackers | None = None,
    ) -> None:
        self.out, self.state_bytes = out, state_bytes
        self.status = StatusFile(
            out / STATUS, steps=steps, world=world, bundle=bundle, step=done, state_bytes=state_bytes
        )
        self.metrics = MetricsWriter(out / METRICS, done)
        self._metrics_closed = False
        self.progress = open_progress(steps)
        self.trackers = trackers or Trackers()

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.__exit__(None, None, None)
        if not self._metrics_closed:
            self.metrics.close()
        if isinstance(error[1], BaseException):
            self.trackers.finish("failed", exit_code_of(error[1]), describe(error[1]))

    def step(self, metrics: StepMetrics) -> None:
        """A step is done."""
        self.metrics.write(metrics)
        self.status.advance(metrics.step + 1, metrics.loss)
        self.progress.update(metrics)
        self.trackers.step(metrics)

    def event(self, kind: str, text: str) -> None:
        """Something happened beside steps."""
        self.trackers.event(kind, text)

    def rewound(self, step: int) -> None:
        """Step `step` comes next, again."""
        self.trackers.rewound(step)
        self.metrics.close()
        self.metrics = MetricsWriter(self.out / METRICS, step)

    def stopped(self, reason: str) -> None:
        """The run has ended early, as it was wished, and its state is saved."""
        self._close_metrics()
        self.status.end(ExitCode.STOPPED_EARLY, reason)
        self.trackers.finish("stopped", ExitCode.STOPPED_EARLY, reason)
        self.progress.finish(
            {"checkpoints": self.out / CHECKPOINTS, "metrics": self.out / METRICS}, self.state_bytes
        )

    def _close_metrics(self) -> None:
        self.metrics.close()
        self._metrics_closed = True

    def complete(self, files: Mapping[str, Path]) -> None:
        """The run is complete: its verdict comes when all else is on disk."""
        self._close_metrics()
        self.status.end()
        self.trackers.finish("complete", ExitCode.DONE, "")
        self.progress.finish({**files, "metrics": self.out / METRICS}, self.state_bytes)
