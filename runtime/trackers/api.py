"""What a tracker is: an object with five methods, made by a function that a package registers.

    [project.entry-points."moec.trackers"]            in the pyproject.toml of the package
    mine = "my_package.tracking:open_tracker"

    def open_tracker(argument: str, run: RunFacts) -> Tracker:
        return MyTracker(argument)

`moec run ... --tracker mine:ARGUMENT` makes it. All calls come from rank 0's training thread, in order, so a
tracker that waits for a network holds up training: leave that to a thread of its own. What a tracker raises
is reported, and the tracker is let go of; the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from moec.runtime.record.metrics import StepMetrics

GROUP = "moec.trackers"
"""The group of entry points."""


@dataclass(frozen=True)
class RunFacts:
    """What a tracker may want to know of a run before it starts.

    `done` of `steps` steps were done before, by a run that this one goes on from. `settings` are plain data:
    numbers, strings, lists, objects and None.
    """

    out: Path
    model: str
    parameters: int
    active_parameters: int
    world: int
    steps: int
    done: int
    bundle: str
    settings: Mapping[str, Any] = field(default_factory=dict)


class Tracker(Protocol):
    """Told of a run as it goes."""

    def step(self, metrics: StepMetrics) -> None:
        """A step is done. Steps come in order, but for `rewound`."""
        ...

    def rewound(self, step: int) -> None:
        """The run went back: step `step` comes again, and what was told of it and later ones is void."""
        ...

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        """After `step` steps, these are the losses of held-out data, by the path of each set."""
        ...

    def event(self, step: int, kind: str, text: str) -> None:
        """Something else happened, after `step` steps: a checkpoint, a warning."""
        ...

    def finish(self, state: str, exit_code: int, reason: str) -> None:
        """The run is over, or this process is: `state` is one of `run_status.json`. Called once, last."""
        ...


OpenTracker = Callable[[str, RunFacts], Tracker]
"""What an entry point names: makes a tracker for a run, of what stands behind the colon, "" without one."""
