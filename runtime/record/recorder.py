"""The record of a run: metrics, status and display together, kept by rank 0; the other ranks keep none."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from moec.runtime.launch import discover
from moec.runtime.record.metrics import MetricsWriter, StepMetrics
from moec.runtime.record.progress import open_progress
from moec.runtime.record.status import StatusFile

METRICS = "metrics.jsonl"
STATUS = "run_status.json"


class Recorder(Protocol):
    """What a training loop tells."""

    def step(self, metrics: StepMetrics) -> None:
        """A step is done."""
        ...

    def complete(self, files: Mapping[str, Path]) -> None:
        """The run is complete, and these files hold what it made."""
        ...


class NoRecord:
    """For every rank but 0."""

    def step(self, metrics: StepMetrics) -> None:
        """Nothing is kept."""

    def complete(self, files: Mapping[str, Path]) -> None:
        """Nothing is kept."""


class RunRecord:
    """Metrics and status in `out`, and progress on standard output. Raises as they do."""

    def __init__(self, out: Path, *, steps: int, world: int, bundle: str) -> None:
        self.out = out
        self.status = StatusFile(out / STATUS, steps=steps, world=world, bundle=bundle)
        self.metrics = MetricsWriter(out / METRICS)
        self.progress = open_progress(steps, environment=_environment())

    def step(self, metrics: StepMetrics) -> None:
        """A step is done."""
        self.metrics.write(metrics)
        self.status.advance(metrics.step + 1, metrics.loss)
        self.progress.update(metrics)

    def complete(self, files: Mapping[str, Path]) -> None:
        """The run is complete."""
        self.metrics.close()
        self.status.end()
        self.progress.finish({**files, "metrics": self.out / METRICS})


def _environment() -> dict[str, str]:
    """The environment, saying that nobody watches unless it says otherwise or no launcher is in between.

    Open MPI gives ranks a pseudo-terminal, whatever becomes of their output.
    """
    told = {} if discover().kind == "single" else {"MOEC_TERMINAL": "0"}
    return {**told, **os.environ}
