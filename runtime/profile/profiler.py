"""`moec run --profile 10..12`: a trace of these steps, of all ranks, in OUT/profile/trace.json.

The trace costs nothing before and after these steps. What goes wrong with it is said, and ends no run.
"""

from __future__ import annotations

import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moec.runtime.errors import RuntimeFailure, message_of, printable
from moec.runtime.job import Job
from moec.runtime.loop import Companion, Wish
from moec.runtime.training import StepResult

from .chrome import rank_events
from .clocks import Clock, align
from .files import PROFILE, TRACE, merge, part_path, write_part
from .spans import Recording
from .work import Work


@dataclass(frozen=True)
class _Running:
    """A recording that goes on."""

    clock: Clock
    nonce: str
    recording: Recording
    stop: Callable[[], None]
    steps: list[tuple[int, Work]]


class Profiler(Companion):
    """Records the steps of `steps`, as far as the run does them, into `out`; `say` is told where they are."""

    def __init__(self, job: Job, steps: range, out: Path, say: Callable[[str], None] | None = None) -> None:
        self._job, self._steps, self._folder = job, steps, out / PROFILE
        self._say = say or (lambda text: print(text, file=sys.stderr))
        self._running: _Running | None = None
        self._done = False

    def before_step(self, step: int) -> None:
        """All ranks compare their clocks, and record from here on."""
        if step not in self._steps or self._running is not None or self._done:
            return
        transport, clock = self._job.transport, self._job.meter.clock
        nonce = transport.exchange(secrets.token_hex(4).encode())[0].decode()
        aligned, recording = align(transport, clock), Recording(clock)
        stop = self._job.executor.observe(recording.watched)
        self._running = _Running(aligned, nonce, recording, stop, [])

    def after_step(self, result: StepResult) -> None:
        """After the last one, write."""
        if self._running is None:
            return
        self._running.steps.append((result.step, result.work))
        if result.step + 1 not in self._steps:
            self._write(self._running)

    def finish(self, wish: Wish | None) -> None:
        """The run ends in the midst of the steps: write what there is."""
        if self._running is not None:
            self._write(self._running)

    def close(self) -> None:
        """Record no longer."""
        if self._running is not None:
            self._running.stop()
            self._running = None

    def _write(self, running: _Running) -> None:
        """On all ranks together: every rank its part, then rank 0 the whole."""
        self.close()
        self._done = True
        transport = self._job.transport
        path = part_path(self._folder, running.nonce, transport.rank)
        events = rank_events(transport.rank, running.clock, running.recording, running.steps)
        report = {"failure": _failure_of(lambda: write_part(path, events)), **_facts(running)}
        reports = [json.loads(answer) for answer in transport.exchange(json.dumps(report).encode())]
        if transport.rank == 0:
            self._say(printable(self._merge(running, reports)))

    def _merge(self, running: _Running, reports: list[dict[str, Any]]) -> str:
        """Write the trace, and say how that went."""
        numbers = [number for number, _ in running.steps]
        missing: list[int] = []
        about = {
            "steps": numbers,
            "model": self._job.bundle.manifest.model,
            "clock_errors_us": [report["clock_error_us"] for report in reports],
            "lost_spans": [report["lost"] for report in reports],
        }

        def make() -> None:
            missing.extend(merge(self._folder, running.nonce, self._job.transport.world, about))

        failures = {rank: report["failure"] for rank, report in enumerate(reports) if report["failure"]}
        failure = _failure_of(make)
        if failure:
            return f"moec: warning: no profile: {failure}"
        said = f"profile of steps {numbers[0]}..{numbers[-1]}: {self._folder / TRACE}"
        if failures:
            said += "".join(f"\n  without rank {rank}: {text}" for rank, text in failures.items())
        elif missing:
            said += f"\n  without ranks {missing}, whose files are in {self._folder} on their machines"
        return said


def _facts(running: _Running) -> dict[str, Any]:
    return {"clock_error_us": round(running.clock.error_s * 1e6, 3), "lost": running.recording.lost}


def _failure_of(action: Callable[[], None]) -> str:
    """What went wrong, "" if nothing did."""
    try:
        action()
    except (OSError, RuntimeFailure) as error:
        return message_of(error)
    return ""
