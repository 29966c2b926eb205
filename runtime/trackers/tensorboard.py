"""TensorBoard: the numbers of a run as events in `OUT/tensorboard`, or in the folder that is named.

moec run ... --tracker tensorboard        tensorboard --logdir OUT/tensorboard
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from moec.runtime.errors import EnvironmentMismatch
from moec.runtime.record.metrics import StepMetrics
from moec.runtime.record.names import TENSORBOARD

from .api import RunFacts
from .scalars import scalars

_FLUSH_S = 10


def open_tracker(argument: str, run: RunFacts) -> TensorBoard:
    """Events in the folder `argument`, or beside the run's record.

    Raises:
        EnvironmentMismatch: tensorboardX is not installed.
    """
    folder = Path(argument) if argument else run.out / TENSORBOARD
    return TensorBoard(_writer(folder, run.done), run)


def check() -> None:
    """Raises EnvironmentMismatch where what it needs is not installed."""
    _library()


def _library() -> Any:
    try:
        return import_module("tensorboardX")
    except ImportError as error:
        raise EnvironmentMismatch(
            "--tracker tensorboard needs tensorboardX: pip install 'moec[tensorboard]'"
        ) from error


def _writer(folder: Path, step: int) -> Any:
    """What earlier events in the folder say of `step` and later ones is void.

    The library names files by the second: the suffix keeps two of one second apart, and in order.
    """
    suffix = f".{time.time_ns()}"
    return _library().SummaryWriter(str(folder), purge_step=step, flush_secs=_FLUSH_S, filename_suffix=suffix)


class TensorBoard:
    """Writes events; `writer` is a SummaryWriter of tensorboardX."""

    def __init__(self, writer: Any, run: RunFacts) -> None:
        self._writer, self._folder = writer, Path(writer.logdir)
        about = {"model": run.model, "world": run.world, "bundle": run.bundle, **run.settings}
        writer.add_text("run", f"```\n{json.dumps(about, indent=1)}\n```", run.done)

    def step(self, metrics: StepMetrics) -> None:
        """A number a tag."""
        for name, number in scalars(metrics).items():
            self._writer.add_scalar(name, number, metrics.step)

    def rewound(self, step: int) -> None:
        """A file that says from where the ones before are void."""
        self._writer.close()
        self._writer = _writer(self._folder, step)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """Under `validation_loss/`."""
        for name, loss in losses.items():
            self._writer.add_scalar(f"validation_loss/{name}", loss, step)

    def event(self, step: int, kind: str, text: str) -> None:
        """As text, under the name of its kind."""
        self._writer.add_text(kind, text, step)

    def finish(self, state: str, exit_code: int, reason: str) -> None:
        """Everything is in the file."""
        said = f"{state} (exit code {exit_code})" + (f": {reason}" if reason else "")
        self._writer.add_text("end", said)
        self._writer.close()
