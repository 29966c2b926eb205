"""Progress of a run on the terminal of rank 0: a display that stays in place, or plain lines.

The display is for a terminal. A rank that was launched cannot tell whether it has one: it writes into a pipe,
or, under Open MPI, to a terminal made for it, wherever the launcher's own output goes. So whoever starts the
launcher says it: MOEC_TERMINAL is 1 or 0, and COLUMNS is the width. Everywhere else (a file, a pipe, CI,
TERM=dumb, no rich installed) there is a line for the first step, for the last, and every five seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Protocol, TextIO

from moec.runtime.launch import discover
from moec.runtime.record.metrics import StepMetrics
from moec.runtime.record.tally import (
    Figure,
    Tally,
    amount,
    duration,
    fitted,
    load_figures,
    loss_figure,
    number,
    speed_figures,
    validation_figures,
)
from moec.runtime.record.terminal import Forgiving

LINE_INTERVAL_S = 5.0
COLUMNS = 80
_MIN_COLUMNS, _MAX_COLUMNS = 20, 1000


class Screen(Protocol):
    """Where progress is shown."""

    interval_s: float
    """How often it is worth showing."""

    def show(self, tally: Tally) -> None:
        """The state of the run."""
        ...

    def say(self, lines: Sequence[str]) -> None:
        """Lines that stay."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was. Called once or more."""
        ...


class Progress:
    """Shows the steps of a run, as often as its screen likes, the first and the last in any case."""

    def __init__(self, steps: int, screen: Screen, clock: Callable[[], float] = time.monotonic) -> None:
        self._tally, self._screen, self._clock = Tally(steps), screen, clock
        self._start_s = clock()
        self._shown_s = float("-inf")

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._screen.close()

    def update(self, metrics: StepMetrics) -> None:
        """A step is done."""
        self._tally.add(metrics)
        now_s = self._clock()
        if now_s - self._shown_s >= self._screen.interval_s or self._tally.done >= self._tally.steps:
            self._screen.show(self._tally)
            self._shown_s = now_s

    def finish(self, files: Mapping[str, Path], state_bytes: Mapping[str, int] | None = None) -> None:
        """The run is over: close, and say how it went and where its files are, by what they hold.

        `state_bytes` are those of this rank, by what they hold.
        """
        self._screen.close()
        self._screen.say(summary(self._tally, self._clock() - self._start_s, files, state_bytes or {}))


def open_progress(
    steps: int, *, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ
) -> Progress:
    """Progress of a run of `steps` steps, on standard output unless told otherwise."""
    return Progress(steps, open_screen(stream or sys.stdout, environment))


def open_screen(stream: TextIO, environment: Mapping[str, str]) -> Screen:
    """The display in place where there is a terminal, else lines."""
    if not shows_in_place(stream, environment):
        return LineScreen(stream)
    try:
        live = import_module("moec.runtime.record.live")
    except ImportError:  # a node with no more than training needs: torch, mpi4py, numpy
        return LineScreen(stream)
    width = columns(environment) if "MOEC_TERMINAL" in environment else None
    screen: Screen = live.LiveScreen(stream, width, colour=not environment.get("NO_COLOR"))
    return screen


def shows_in_place(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether what is written to `stream` ends up on a terminal that can move its cursor."""
    if environment.get("TERM") == "dumb":
        return False
    if "MOEC_TERMINAL" in environment:
        return environment["MOEC_TERMINAL"] == "1"
    return discover(environment).kind == "single" and stream.isatty()


def columns(environment: Mapping[str, str]) -> int:
    """The width that COLUMNS tells, or 80."""
    text = environment.get("COLUMNS", "")
    width = int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else COLUMNS
    return min(max(width, _MIN_COLUMNS), _MAX_COLUMNS)


class LineScreen:
    """One line now and then, of at most 80 characters, plain ASCII."""

    interval_s = LINE_INTERVAL_S

    def __init__(self, stream: TextIO) -> None:
        self._stream = Forgiving(stream)

    def show(self, tally: Tally) -> None:
        """One line."""
        self.say([line(tally)])

    def say(self, lines: Sequence[str]) -> None:
        """The lines."""
        print(*lines, sep="\n", file=self._stream, flush=True)

    def close(self) -> None:
        """Nothing to do."""


def line(tally: Tally) -> str:
    """`12/200  loss 6.8012 (-0.1303)  lr 3.0e-05  12.3k tok/s  1:34 left  load 1.4x`."""
    figures = [Figure(f"{tally.done}/{tally.steps}", 10), loss_figure(tally)]
    figures += [*validation_figures(tally), *speed_figures(tally)]
    figures.append(Figure(f"{duration(tally.left_s)} left", 4))
    return fitted([*figures, *load_figures(tally, named=False)], COLUMNS)


def summary(
    tally: Tally, seconds: float, files: Mapping[str, Path], state_bytes: Mapping[str, int]
) -> list[str]:
    """How a run went: steps, time, speed, loss, the bytes of a rank's state, and where its files are."""
    if tally.first is None or tally.last is None:
        lines = [f"no steps done in {duration(seconds)}"]
    else:
        speed = f"{amount(tally.median_tokens_per_s)} tokens/s (median)"
        steps = f"{tally.count} step{'s' if tally.count > 1 else ''}"
        change = f"({number(tally.loss_change, '+')})"
        losses = f"{number(tally.first.loss)} -> {number(tally.last.loss)} {change}"
        lines = [f"{steps} in {duration(seconds)}, {speed}", f"loss {losses}"]
        lines += [f"held-out loss {number(loss)}  {name}" for name, loss in tally.validation.items()]
    if state_bytes:
        parts = ", ".join(f"{what} {amount(size)}B" for what, size in state_bytes.items())
        lines.append(f"state of rank 0: {amount(sum(state_bytes.values()))}B ({parts})")
    width = max(map(len, files), default=0)
    return lines + [f"{what:<{width}}  {path}" for what, path in files.items()]
