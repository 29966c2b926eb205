"""The display that stays in place: two lines, drawn by rich. The only file of the runtime that needs it.

12/200 ━━━━━━━━━━╺━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━  6% 1:34 left
loss 6.8012 (-0.1303)  lr 3.0e-05  12.3k tok/s  load 1.4x  in layers.3.experts
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TextIO, cast

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from moec.runtime.record.tally import (
    Tally,
    duration,
    fitted,
    load_figures,
    loss_figure,
    speed_figures,
    validation_figures,
)
from moec.runtime.record.terminal import Forgiving

INTERVAL_S = 0.2


class LiveScreen:
    """Draws itself anew at each step, without a thread of its own. `width` None means: ask the terminal."""

    interval_s = INTERVAL_S

    def __init__(self, stream: TextIO, width: int | None, *, colour: bool) -> None:
        self._console = Console(
            file=cast(TextIO, Forgiving(stream)),  # rich would end the process where a pipe breaks
            force_terminal=True,
            width=width,
            no_color=not colour,
            highlight=False,
        )
        self._live: Live | None = None

    def show(self, tally: Tally) -> None:
        """Both lines, in the place of those before."""
        if self._live is None:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
            # rich hides the cursor until `stop`; a rank that is killed never gets there.
            self._console.show_cursor(True)
        self._live.update(picture(tally, self._console.width), refresh=True)

    def say(self, lines: Sequence[str]) -> None:
        """Lines that stay, as they are."""
        self._console.print(Text("\n".join(lines)), soft_wrap=True)

    def close(self) -> None:
        """Let the last picture stand."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class LiveLines:
    """Draws lines of text in the place of those before; a context."""

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=cast(TextIO, Forgiving(stream)), force_terminal=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> LiveLines:
        self._live.start()
        self._console.show_cursor(True)
        return self

    def __exit__(self, *error: object) -> None:
        self._live.stop()

    def size(self) -> tuple[int, int]:
        """Columns and lines that there is room for."""
        return self._console.width, self._console.height

    def show(self, lines: Sequence[str]) -> None:
        """Draw."""
        self._live.update(Text("\n".join(lines), no_wrap=True, overflow="crop"), refresh=True)


def picture(tally: Tally, width: int) -> Group:
    """The two lines."""
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(no_wrap=True)
    row.add_column(ratio=1)
    row.add_column(no_wrap=True, justify="right")
    row.add_column(no_wrap=True, justify="right")
    row.add_row(
        f"{tally.done}/{tally.steps}",
        ProgressBar(max(tally.steps, 1), tally.done, complete_style="cyan", finished_style="green"),
        f"{100 * tally.done // max(tally.steps, 1)}%",
        f"{duration(tally.left_s)} left",
    )
    figures = [loss_figure(tally), *validation_figures(tally), *speed_figures(tally)]
    figures += load_figures(tally, named=True)
    detail = Text(fitted(figures, width), no_wrap=True)
    colour = "green" if tally.loss_change < 0 else "yellow"
    detail.highlight_regex(r"\([+-].*?\)", colour)
    return Group(row, detail)


class Show(Protocol):
    """Takes the bytes that were read, and counts by name."""

    def __call__(self, read_bytes: int, **counts: int) -> None:
        """So far."""


@contextmanager
def reading_bar(total_bytes: int) -> Iterator[Show]:
    """A bar on standard error, if that is a terminal: bytes read of `total_bytes`, and counts."""
    console = Console(stderr=True)
    counts = TextColumn("{task.description}")
    columns = (BarColumn(), DownloadColumn(), counts, TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total_bytes)

        def show(read_bytes: int, **found: int) -> None:
            text = "  ".join(f"{count:,} {name}" for name, count in found.items())
            bar.update(task, completed=read_bytes, description=text)

        yield show
