"""Pictures of a run: they fit, they show what is so, and files from anyone steer no terminal."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.abi.codec import dump, to_data
from moec.runtime.record.metrics import StepMetrics, line_of
from moec.runtime.record.status import RunStatus
from moec.runtime.viewing.following import blocks_of, follow
from moec.runtime.viewing.look import Look
from moec.runtime.viewing.picture import History, picture
from moec.runtime.viewing.plot import ASCII_BLOCKS, BLOCKS, bars, curve, resampled

STATUS = RunStatus("running", 40, 100, 2.5, None, "", 2, "digest", "", "", {})
ANY = st.floats(allow_nan=True, allow_infinity=True)


def look_of(status: RunStatus = STATUS, *recent: StepMetrics) -> Look:
    return Look(Path("runs/tiny"), status, recent, (), 1.0 if status.state == "running" else None)


def metrics(number: int = 39, loss: float = 2.5, name: str = "layers.0.experts") -> StepMetrics:
    return StepMetrics(
        number,
        loss,
        1.0,
        3e-4,
        64,
        12_345.0,
        0.5,
        flops_per_s=2e12,
        mfu=0.25,
        expert_load={name: [1, 2, 0, 5]},
        load_imbalance={name: 2.5},
        router_entropy={name: 1.25},
        dropped_choices={name: 7},
        bytes_sent={"shard": {"all_gather": 2_000_000}},
        time_s={"data": 0.05, "compute": 0.25, "collectives": 0.2, "waiting": 0.1},
    )


def drawn(*steps: StepMetrics, status: RunStatus = STATUS, width: int = 100, height: int = 40) -> list[str]:
    history = History()
    history.add(steps, instead=True)
    return picture(look_of(status, *steps[-16:]), history, width, height)


def test_what_is_in_it() -> None:
    lines = drawn(*(metrics(n, 6.0 - n / 10) for n in range(40)))
    text = "\n".join(lines)
    for part in (
        "runs/tiny  running, last sign of life 0:01 ago",
        " 40/100  0:30 left",
        "loss 2.1000  lr 3.0e-04  grad norm 1  12.3k tok/s  0.5 s a step  2000.0GFLOP/s  25.0% of the peak",
        "time   data 10%  compute 50%  collectives 40%  waiting 20%",
        "sent   shard all_gather 2.0MB",
        "load   layers.0.experts               2.5x  entropy 1.25  dropped 7  ▂▄ █",
    ):
        assert part in text
    assert lines[3].startswith("         6 █")
    assert lines[1].count("█") == round((100 - len(" 40/100  0:30 left")) * 0.4)


def test_of_many_moes_the_most_uneven_are_shown_in_their_order() -> None:
    names = [f"layers.{i}.experts" for i in range(50)]
    imbalance = {name: 1.0 + (i % 10) for i, name in enumerate(names)}
    one = replace(
        metrics(),
        expert_load={name: [1, 2] for name in names},
        load_imbalance=imbalance,
        router_entropy={},
        dropped_choices={},
    )
    lines = drawn(one, height=20)
    shown = [line.split()[1] for line in lines if line.startswith("load")]
    assert len(lines) == 20
    assert set(shown[:]) >= {f"layers.{i}.experts" for i in (9, 19, 29, 39, 49)}
    assert shown == sorted(shown, key=names.index)


def test_the_end_of_a_run_says_why() -> None:
    failed = replace(STATUS, state="failed", exit_code=87, reason="loss is nan in step 40\n  from tiny.moe:3")
    assert drawn(metrics(), status=failed)[-2:] == [
        "exit code 87: a loss or a gradient that is not finite",
        "loss is nan in step 40",
    ]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.builds(metrics, st.integers(0, 1 << 62), ANY, st.text(max_size=60)), max_size=5),
    st.integers(1, 120),
    st.integers(0, 40),
)
def test_it_fits_and_steers_no_terminal(steps: list[StepMetrics], width: int, height: int) -> None:
    lines = drawn(*steps, width=width, height=height)
    assert len(lines) <= height
    assert all(len(line) <= width and line.isprintable() for line in lines)


@given(st.lists(ANY, max_size=50), st.integers(1, 60), st.integers(2, 9))
def test_a_curve_is_as_high_as_its_numbers(values: list[float], width: int, height: int) -> None:
    lines = curve(values, width + 12, height)
    finite = [value for value in resampled(values, width + 1) if math.isfinite(value)]
    if not finite:
        assert not lines
        return
    assert len(lines) == height
    columns = resampled(values, width + 1)
    rows = [line[11:].ljust(width + 1) for line in lines]
    heights = [sum(BLOCKS.index(row[i]) for row in rows) for i in range(len(columns))]
    for value, level in zip(columns, heights, strict=True):
        if not math.isfinite(value):
            assert level == 0
        elif value == max(finite) > min(finite):
            assert level == 8 * height
        elif value == min(finite):
            assert level == 1
    ranked = sorted((v, h) for v, h in zip(columns, heights, strict=True) if math.isfinite(v))
    assert [h for _, h in ranked] == sorted(h for _, h in ranked)


def test_bars_and_means() -> None:
    assert bars([0, 1, 4, 8, -3]) == " ▁▄█ "
    assert bars([0, 0]) == "  "
    assert bars([]) == ""
    assert bars([1, 8], ASCII_BLOCKS) == ".#"
    assert resampled([1.0, 3.0, math.nan, 5.0], 2) == [2.0, 5.0]


def leave(out: Path, status: RunStatus) -> Path:
    out.mkdir(exist_ok=True)
    now = "2026-01-01T12:00:00+00:00"
    (out / "run_status.json").write_bytes(dump(to_data(replace(status, started=now, updated=now))))
    return out


def test_a_pipe_gets_one_picture_in_its_encoding(tmp_path: Path) -> None:
    out = leave(tmp_path / "run", replace(STATUS, state="failed", exit_code=86))
    (out / "metrics.jsonl").write_bytes(line_of(metrics()))
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    assert follow(out, stream=stream) == 86
    stream.flush()
    text = raw.getvalue().decode("ascii")
    assert "40/100" in text
    assert "exit code 86" in text
    assert blocks_of(io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == BLOCKS


class Terminal(io.StringIO):
    """Says that it is one."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_it_follows_a_run_until_it_ends(tmp_path: Path) -> None:
    """Steps are added between two looks, and then the verdict: the last picture has both."""
    out, terminal = leave(tmp_path / "run", STATUS), Terminal()
    path, looks = out / "metrics.jsonl", []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        with path.open("ab") as file:
            file.write(line_of(metrics(40 + len(looks), 7.5 - len(looks))))
        if len(looks) == 3:
            leave(out, replace(STATUS, state="complete", step=44, exit_code=0))

    assert follow(out, stream=terminal, sleep=sleep) == 0
    assert looks == [0.5] * 3
    shown = terminal.getvalue()
    assert "loss 6.5000" in shown
    assert "loss 4.5000" in shown.split("complete")[-1]


def test_an_interrupt_ends_the_showing_only(tmp_path: Path) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    out, terminal = leave(tmp_path / "run", STATUS), Terminal()
    (out / "metrics.jsonl").write_bytes(line_of(metrics()))
    assert follow(out, stream=terminal, sleep=interrupt) == 0


@pytest.mark.parametrize("once", [True, False])
def test_the_command(once: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from moec.cli.main import run

    out = leave(tmp_path / "run", replace(STATUS, state="complete", exit_code=0))
    assert run(["watch", str(out), *(["--once"] if once else [])]) == 0
    assert f"{out}  complete" in capsys.readouterr().out
    assert run(["watch", str(tmp_path)]) == 1
