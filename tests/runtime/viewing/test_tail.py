"""Following a metrics file: what is added, once; what was cut, again; never more than a limit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.errors import IntegrityError
from moec.runtime.record.metrics import StepMetrics, line_of
from moec.runtime.viewing import tail
from moec.runtime.viewing.tail import Tail


def line(number: int) -> bytes:
    return line_of(StepMetrics(number, 2.5, 1.0, 3e-4, 64, 128.0, 0.5))


def numbers(found: list[StepMetrics]) -> list[int]:
    return [step.step for step in found]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 400), max_size=12))
def test_every_step_comes_once_however_the_bytes_come(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[int]
) -> None:
    path = tmp_path_factory.mktemp("run") / "metrics.jsonl"
    whole = b"".join(map(line, range(12)))
    follower, seen, at = Tail(path), [], 0
    for piece in [*pieces, len(whole)]:
        with path.open("ab") as file:
            file.write(whole[at : at + piece])
        at += piece
        found, instead = follower.read()
        assert not seen or not instead
        seen += numbers(found)
        assert seen == list(range(whole[:at].count(b"\n")))
    assert follower.read() == ([], False)


def test_a_file_that_is_not_there_yet_has_no_steps(tmp_path: Path) -> None:
    follower = Tail(tmp_path / "metrics.jsonl")
    assert follower.read() == ([], True)
    (tmp_path / "metrics.jsonl").write_bytes(line(0))
    assert numbers(follower.read()[0]) == [0]


def test_what_a_run_takes_back_is_read_again(tmp_path: Path) -> None:
    """Cut to be shorter; or cut, and grown beyond what was read, which shows in the midst of a line."""
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(map(line, range(4))))
    follower = Tail(path)
    follower.read()
    path.write_bytes(b"".join(map(line, range(2))))
    found, instead = follower.read()
    assert (numbers(found), instead) == ([0, 1], True)
    longer = line_of(StepMetrics(0, 2.25, 1.0, 3e-4, 64, 128.0, 0.5, z_loss=1.0))
    path.write_bytes(longer + line(1) + line(2))
    found, instead = follower.read()
    assert (numbers(found), instead) == ([0, 1, 2], True)


def test_of_a_large_file_only_the_end_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(map(line, range(100))))
    found, _ = Tail(path, last_bytes=3 * len(line(99)) + 5).read()
    assert numbers(found) == [97, 98, 99]


def test_what_is_no_metrics_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    for content in (b"my thesis\n", b'{"step": 1}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n", b"\n"):
        path.write_bytes(line(0) + content)
        with pytest.raises(IntegrityError, match=r"metrics\.jsonl"):
            Tail(path).read()
    monkeypatch.setattr(tail, "MAX_LINE_BYTES", 1000)
    path.write_bytes(line(0) + b"x" * 2000)
    with pytest.raises(IntegrityError, match="a line of 1000 bytes or more"):
        Tail(path).read()
