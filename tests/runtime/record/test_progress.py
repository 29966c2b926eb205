"""Progress: in place on a terminal, plain lines elsewhere, 80 columns, never a reason to end a run."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moec.runtime.record import progress as progress_module
from moec.runtime.record.live import LiveScreen
from moec.runtime.record.metrics import StepMetrics
from moec.runtime.record.progress import LineScreen, Progress, columns, line, open_progress, open_screen
from moec.runtime.record.tally import Tally, amount, duration, number, worst_load

COLOUR = re.compile(r"\x1b\[[0-9;]*3[0-9][0-9;]*m")
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Gone(io.StringIO):
    """A terminal that was closed."""

    def write(self, text: str) -> int:
        raise BrokenPipeError

    def flush(self) -> None:
        raise BrokenPipeError


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def step(at: int, loss: float = 2.5, step_s: float = 0.5, load: Sequence[int] = (6, 2)) -> StepMetrics:
    loads = {"layers.3.experts": load}
    return StepMetrics(at, loss, 1.0, 3e-4, 4096, 4096 / step_s, step_s, expert_load=loads)


def screen_for(environment: Mapping[str, str], stream: io.StringIO | None = None) -> str:
    return type(open_screen(stream or io.StringIO(), environment)).__name__


# --- which of the two ---


def test_the_display_in_place_is_for_terminals_and_for_whoever_says_that_there_is_one() -> None:
    assert screen_for({}) == "LineScreen"
    assert screen_for({"MOEC_TERMINAL": "1"}) == "LiveScreen"
    assert screen_for({"MOEC_TERMINAL": "1", "TERM": "dumb"}) == "LineScreen"
    assert screen_for({"MOEC_TERMINAL": "yes"}) == "LineScreen"
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        assert type(open_screen(stream, {})).__name__ == "LiveScreen"
        assert type(open_screen(stream, {"MOEC_TERMINAL": "0"})).__name__ == "LineScreen"
        # Open MPI makes a terminal for each rank, whatever its own output is.
        launched = {"OMPI_COMM_WORLD_RANK": "0"}
        assert type(open_screen(stream, launched)).__name__ == "LineScreen"
        assert type(open_screen(stream, {**launched, "MOEC_TERMINAL": "1"})).__name__ == "LiveScreen"
    os.close(controller)


def test_without_rich_there_are_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(progress_module, "import_module", missing)
    assert screen_for({"MOEC_TERMINAL": "1"}) == "LineScreen"


def test_columns_are_read_carefully() -> None:
    read = [columns({"COLUMNS": text}) for text in ("120", "5", "99999", "999999", "-3", "x", "", "²")]
    assert read == [120, 20, 1000, 80, 80, 80, 80, 80]
    assert columns({}) == 80


# --- lines ---


def test_lines_come_first_then_every_five_seconds_then_last() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(40, LineScreen(stream), clock)
    for at in range(40):
        clock.now_s = at * 0.5
        progress.update(step(at))
    shown = [int(text.split("/")[0]) for text in stream.getvalue().splitlines()]
    assert shown == [1, 11, 21, 31, 40]


def test_a_line_says_it_all() -> None:
    tally = Tally(200)
    for at, loss in enumerate((6.9315, 6.8012)):
        tally.add(step(at, loss))
    assert line(tally) == "2/200  loss 6.8012 (-0.1303)  lr 3.0e-04  8.2k tok/s  1:39 left  load 1.5x"


@given(
    st.integers(1, 10**9),
    st.floats(allow_nan=True),
    st.floats(1e-9, 1e9),
    st.floats(1e-9, 1e6),
    st.lists(st.integers(0, 10**12), max_size=4),
)
def test_no_line_is_over_80_columns_and_all_are_ascii(
    last: int, loss: float, lr: float, step_s: float, load: list[int]
) -> None:
    tally = Tally(10**9)
    for at in (last - 1, last):
        tally.add(StepMetrics(at, loss, 1.0, lr, 10**9, 10**9 / step_s, step_s, expert_load={"x": load}))
    text = line(tally)
    assert len(text) <= 80
    assert text.isascii()
    assert text.startswith(f"{last + 1}/1000000000  loss ")


def test_a_run_without_moe_has_no_load() -> None:
    tally = Tally(2)
    tally.add(StepMetrics(0, 1.0, 1.0, 1e-4, 10, 10.0, 1.0))
    assert line(tally) == "1/2  loss 1.0000  lr 1.0e-04  10 tok/s  0:01 left"


# --- in place ---


def live(environment: Mapping[str, str], steps: int = 3) -> str:
    stream = io.StringIO()
    with open_progress(steps, stream=stream, environment={"MOEC_TERMINAL": "1", **environment}) as progress:
        for at in range(steps):
            progress.update(step(at, 3.0 - at))
        progress.finish({"metrics": Path("runs/[x]/metrics.jsonl")})
    return stream.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_the_display_stays_within_the_columns_and_ends_with_the_last_step(width: int) -> None:
    written = live({"COLUMNS": str(width)})
    rows = ESCAPE.sub("", written).replace("\r", "\n").splitlines()
    assert rows[-3:-1] == ["3 steps in 0:00, 8.2k tokens/s (median)", "loss 3.0000 -> 1.0000 (-2.0000)"]
    assert rows[-1] == "metrics  runs/[x]/metrics.jsonl"
    assert max(map(len, rows[:-3])) <= width
    assert rows[-5].startswith("3/3 ")
    assert rows[-5].endswith("100% 0:00 left")
    figures = "loss 1.0000 (-2.0000)  lr 3.0e-04  8.2k tok/s  load 1.5x  in layers.3.experts"
    assert rows[-4] == figures if width >= len(figures) else figures.startswith(rows[-4][:20])


def test_no_color_means_none() -> None:
    assert COLOUR.search(live({"TERM": "xterm"}))
    assert not COLOUR.search(live({"NO_COLOR": "1"}))
    assert COLOUR.search(live({"NO_COLOR": ""}))


def test_the_cursor_is_never_left_hidden() -> None:
    """A rank that is killed while it draws cannot bring it back."""
    stream = io.StringIO()
    progress = open_progress(3, stream=stream, environment={"MOEC_TERMINAL": "1"})
    progress.update(step(0))
    written = stream.getvalue()
    assert written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l")
    progress.finish({})


def test_output_is_its_own_again_after_a_failure() -> None:
    before = sys.stdout

    def failing() -> None:
        with open_progress(3, stream=io.StringIO(), environment={"MOEC_TERMINAL": "1"}) as progress:
            progress.update(step(0))
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert sys.stdout is before


@pytest.mark.parametrize("told", ["0", "1"])
def test_a_terminal_that_is_gone_ends_no_run(told: str) -> None:
    with open_progress(3, stream=Gone(), environment={"MOEC_TERMINAL": told}) as progress:
        for at in range(3):
            progress.update(step(at))
        progress.finish({"metrics": Path("metrics.jsonl")})


# --- figures ---


def test_the_summary_tells_how_it_went() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress(3, LineScreen(stream), clock)
    for at, (loss, step_s) in enumerate(((6.9315, 8.0), (6.0, 0.5), (5.5, 1.0))):
        progress.update(step(at, loss, step_s))
    clock.now_s = 3754
    files = {"metrics": Path("out/metrics.jsonl"), "all weights": Path("out/weights")}
    progress.finish(files, {"parameters": 4_000_000, "gradients": 4_000_000, "optimizer": 8_000_000})
    assert stream.getvalue().splitlines()[-5:] == [
        "3 steps in 1:02:34, 4.1k tokens/s (median)",
        "loss 6.9315 -> 5.5000 (-1.4315)",
        "state of rank 0: 16.0MB (parameters 4.0MB, gradients 4.0MB, optimizer 8.0MB)",
        "metrics      out/metrics.jsonl",
        "all weights  out/weights",
    ]


def test_a_run_that_had_nothing_to_do_says_so() -> None:
    stream = io.StringIO()
    Progress(3, LineScreen(stream), Clock()).finish({})
    assert stream.getvalue() == "no steps done in 0:00\n"


def test_a_run_that_goes_on_counts_from_where_it_is() -> None:
    """Change and time left are of this run, the position is of the whole."""
    tally = Tally(110)
    for at in (100, 101):
        tally.add(step(at, 4.0 - at / 100))
    assert (tally.done, tally.count, tally.left_s) == (102, 2, 4.0)
    assert tally.loss_change == pytest.approx(-0.01)


def test_the_slow_first_step_does_not_set_the_time_left() -> None:
    tally = Tally(100)
    for at, step_s in enumerate((60.0, 1.0, 1.0)):
        tally.add(step(at, step_s=step_s))
    assert tally.left_s == 97.0


def test_the_worst_load_is_the_busiest_expert_over_the_mean() -> None:
    assert worst_load({"a": [1, 1], "b": [0, 0, 9, 0], "c": [3, 1]}) == (4.0, "b")
    assert worst_load({"a": [0, 0], "b": []}) is None
    assert worst_load({}) is None


def test_numbers_are_short() -> None:
    assert [amount(n) for n in (0, 950, 12345.6, 2e6, 3.2e9)] == ["0", "950", "12.3k", "2.0M", "3.2G"]
    assert [duration(s) for s in (0, 59.6, 94, 3754)] == ["0:00", "1:00", "1:34", "1:02:34"]
    assert [duration(s) for s in (3600, 360_000)] == ["1:00:00", "100:00:00"]
    losses = (2.34561, -1e5, 1e40, float("nan"))
    assert [number(x) for x in losses] == ["2.3456", "-1.000e+05", "1.000e+40", "nan"]


def test_the_screen_of_a_terminal_asks_it_for_its_width() -> None:
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w") as stream:
        screen = open_screen(stream, {"COLUMNS": "33"})
        assert isinstance(screen, LiveScreen)
        tally = Tally(2)
        tally.add(step(0))
        screen.show(tally)
        screen.close()
        written = b""
        while b"1/2" not in written:
            written += os.read(controller, 10_000)
    os.close(controller)
