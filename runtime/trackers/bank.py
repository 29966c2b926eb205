"""All trackers of a run together. None of them ends it: one that fails is reported and let go of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from moec.runtime.errors import message_of, printable
from moec.runtime.record.metrics import StepMetrics

from .api import RunFacts, Tracker
from .load import Found


class Trackers:
    """None at first; `say` is told of one that fails. `step_done` steps were done when it was last told."""

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say or _say
        self._open: dict[str, Tracker] = {}
        self.step_done = 0

    def open(self, found: Sequence[Found], run: RunFacts) -> None:
        """Open those that were found, for a run."""
        self.step_done = run.done
        for one in found:
            name = f"{one.name}:{one.argument}" if one.argument else one.name
            with _Reporting(self, name):
                self._open[name] = one.open(one.argument, run)

    def step(self, metrics: StepMetrics) -> None:
        """A step is done."""
        self.step_done = metrics.step + 1
        self._tell(lambda tracker: tracker.step(metrics))
        if metrics.validation_loss:
            self._tell(lambda tracker: tracker.validation(self.step_done, metrics.validation_loss))

    def rewound(self, step: int) -> None:
        """Step `step` comes again."""
        self.step_done = step
        self._tell(lambda tracker: tracker.rewound(step))

    def event(self, kind: str, text: str) -> None:
        """Something happened, after the last step told of."""
        self._tell(lambda tracker: tracker.event(self.step_done, kind, text))

    def finish(self, state: str, exit_code: int, reason: str) -> None:
        """Nothing follows. Only the first call counts."""
        self._tell(lambda tracker: tracker.finish(state, exit_code, reason))
        self._open.clear()

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            with _Reporting(self, name):
                what(tracker)

    def failed(self, name: str, error: BaseException) -> None:
        """Let go of a tracker."""
        self._open.pop(name, None)
        text = f"{type(error).__name__}: {message_of(error)}"
        self._say(printable(f"tracker {name} failed after {self.step_done} steps, and is off: {text}"))


class _Reporting:
    """A context that no error leaves, but for an interrupt."""

    def __init__(self, trackers: Trackers, name: str) -> None:
        self._trackers, self._name = trackers, name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception | SystemExit):
            self._trackers.failed(self._name, error)
            return True
        return False


def _say(text: str) -> None:
    print(f"moec: warning: {text}", file=sys.stderr)
