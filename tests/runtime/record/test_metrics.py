"""metrics.jsonl: strict JSON, a line a step, whole after every kind of end."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.errors import InputOutputError, IntegrityError, InternalError, UserError
from moec.runtime.record import metrics
from moec.runtime.record.metrics import MetricsWriter, StepMetrics, line_of, metrics_of, read_metrics

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
NAMES = st.text(max_size=20)
STEPS = st.builds(
    StepMetrics,
    step=st.integers(0, 1 << 40),
    loss=FLOATS,
    grad_norm=FLOATS,
    lr=FLOATS,
    tokens=st.integers(0, 1 << 60),
    tokens_per_s=FLOATS,
    step_s=FLOATS,
    aux_loss=FLOATS,
    sequence_aux_loss=st.none() | FLOATS,
    z_loss=st.none() | FLOATS,
    expert_load=st.dictionaries(NAMES, st.lists(st.integers(0, 1 << 50), max_size=4), max_size=3),
    flops_per_s=st.none() | FLOATS,
    mfu=st.none() | FLOATS,
    router_entropy=st.dictionaries(NAMES, FLOATS, max_size=3),
    dropped_tokens=st.dictionaries(NAMES, st.integers(0, 1 << 50), max_size=3),
    bytes_sent=st.dictionaries(
        NAMES, st.dictionaries(NAMES, st.integers(0, 1 << 60), max_size=3), max_size=3
    ),
)


def step(number: int, loss: float = 2.5) -> StepMetrics:
    load = {"layers.0.experts": [3, 1]}
    return StepMetrics(number, loss, 1.0, 3e-4, 4096, 8192.0, 0.5, aux_loss=1.25, expert_load=load)


def write(path: Path, first: int, count: int) -> None:
    writer = MetricsWriter(path, first)
    for number in range(first, first + count):
        writer.write(step(number))
    writer.close()


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def refuse_constant(text: str) -> None:
    raise AssertionError(f"{text} is not JSON")


def same(a: float | None, b: float | None) -> bool:
    return a == b or (a is not None and b is not None and math.isnan(a) and math.isnan(b))


def test_the_keys_are_those_that_are_documented(tmp_path: Path) -> None:
    write(tmp_path / "metrics.jsonl", 0, 1)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "step": 0, "loss": 2.5, "aux_loss": 1.25, "grad_norm": 1.0, "lr": 3e-4, "tokens": 4096,
        "tokens_per_s": 8192.0, "step_s": 0.5, "expert_load": {"layers.0.experts": [3, 1]},
    }  # fmt: skip


@settings(deadline=None)
@given(STEPS)
def test_every_step_is_one_line_of_strict_json_and_comes_back(metrics: StepMetrics) -> None:
    line = line_of(metrics)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    data = json.loads(line, parse_constant=refuse_constant)
    read = metrics_of(line, "here")
    losses = ("loss", "aux_loss", "sequence_aux_loss", "z_loss")
    for name in (*losses, "grad_norm", "lr", "tokens_per_s", "step_s", "flops_per_s", "mfu"):
        value = getattr(metrics, name)
        assert same(getattr(read, name), value)
        assert (name in data) == (value is not None)
        if value is not None and not math.isfinite(value):
            assert data[name] is None
            assert data["non_finite"][name] == str(value)
        elif value is not None:
            assert data[name] == value
    assert (read.step, read.tokens) == (metrics.step, metrics.tokens)
    assert read.expert_load == metrics.expert_load == data["expert_load"]
    assert (read.dropped_tokens, read.bytes_sent) == (metrics.dropped_tokens, metrics.bytes_sent)
    assert read.router_entropy.keys() == metrics.router_entropy.keys()
    for name, value in metrics.router_entropy.items():
        finite = math.isfinite(value)
        assert same(read.router_entropy[name], value if finite else math.nan)
        assert data["router_entropy"][name] == (value if finite else None)
    for name in ("router_entropy", "dropped_tokens", "bytes_sent"):
        assert (name in data) == bool(getattr(metrics, name))


def test_a_line_is_there_as_soon_as_it_is_written(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    for number in range(3):
        writer.write(step(number))
        assert [m.step for m in read_metrics(tmp_path / "metrics.jsonl")] == list(range(number + 1))
    writer.close()


@settings(deadline=None)
@given(st.integers(0, 6), st.integers(0, 200), st.integers(0, 8), st.integers(1, 300))
def test_going_on_keeps_earlier_steps_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, before: int, cut_bytes: int, next_step: int, block_bytes: int
) -> None:
    """Killed anywhere in a file of `before` steps, then gone on from any checkpoint."""
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    write(path, 0, before)
    left = path.read_bytes()[: max(0, path.stat().st_size - cut_bytes)]
    path.write_bytes(left)
    whole = left.count(b"\n")
    assert [m.step for m in read_metrics(path)] == list(range(whole))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_BLOCK_BYTES", block_bytes)
        write(path, next_step, 2)
    assert steps(path) == [*range(min(whole, next_step)), next_step, next_step + 1]


def test_what_is_no_metrics_file_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    good = line_of(step(0)).decode()
    for content in (
        "my thesis\n",
        '{"step": 3}\n',
        "[]\n",
        "3\n",
        good.replace("2.5", "NaN"),
        good.replace("2.5", "null"),
        good.replace('"loss": 2.5', '"loss": null, "non_finite": {"loss": "0"}'),
        good.replace('"loss": 2.5', '"loss": 2.5, "non_finite": {"loss": "nan"}'),
        good.replace('"loss": 2.5', '"loss": "2.5"'),
        good.replace('"step": 0', '"step": 0.5'),
        good.replace('"step": 0', '"step": 0, "step": 1'),
        good.replace("[3, 1]", "[3, 1.5]"),
        good.replace("[3, 1]", "3"),
        good.replace('"tokens"', '"token"'),
        good.replace('"step": 0', '"step": 0, "router_entropy": {"a": "1"}'),
        good.replace('"step": 0', '"step": 0, "router_entropy": [1.0]'),
        good.replace('"step": 0', '"step": 0, "dropped_choices": {"a": 1.5}'),
        good.replace('"step": 0', '"step": 0, "bytes_sent": {"a": 1}'),
        good.replace('"step": 0', '"step": 0, "bytes_sent": {"a": {"b": true}}'),
        good.replace('"step": 0', f'"step": {1 << 63}'),
        good.replace("[3, 1]", f"[3, {1 << 70}]"),
    ):
        path.write_text(good + content)
        with pytest.raises(IntegrityError, match=r"metrics\.jsonl"):
            MetricsWriter(path)
        with pytest.raises(IntegrityError, match=r"metrics\.jsonl:2: "):
            list(read_metrics(path))
        assert path.read_text() == good + content


def test_names_that_a_reader_does_not_know_are_passed_over() -> None:
    """Written by a later moec: numbers, objects, and a number that was not finite."""
    more = b'{"hours": 3, "rooms": {"a": [1]}, "heat": null, "non_finite": {"heat": "inf"}, '
    assert metrics_of(line_of(step(2)).replace(b"{", more, 1), "here") == step(2)


def test_lines_have_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MAX_LINE_BYTES", 1000)
    path = tmp_path / "metrics.jsonl"
    path.write_text("x" * 2000 + "\n")
    with pytest.raises(IntegrityError, match="its last line has 2001 bytes, too many"):
        MetricsWriter(path)
    with pytest.raises(IntegrityError, match=r"metrics.jsonl:1: a line of 1000 bytes or more"):
        list(read_metrics(path))


def test_steps_come_in_order(tmp_path: Path) -> None:
    writer = MetricsWriter(tmp_path / "metrics.jsonl", 4)
    writer.write(step(5))
    for number in (5, 3):
        with pytest.raises(InternalError, match=f"metrics of step {number} come after those of 5"):
            writer.write(step(number))
    writer.close()


def test_a_missing_directory_and_a_full_disk_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="there is no directory"):
        MetricsWriter(tmp_path / "none" / "metrics.jsonl")
    with pytest.raises(UserError, match="no file"):
        list(read_metrics(tmp_path / "metrics.jsonl"))
    writer = MetricsWriter(tmp_path / "metrics.jsonl")
    writer.write(step(0))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputOutputError, match=r"cannot write .*metrics.jsonl: No space left"):
        writer.close()
