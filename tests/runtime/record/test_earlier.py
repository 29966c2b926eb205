"""An earlier run's record is moved aside whole, under the time it started, and nothing else is touched."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from moec.runtime.errors import UserError
from moec.runtime.record.earlier import set_aside
from moec.runtime.record.status import StatusFile
from moec.runtime.weights.index import Index, index_text


def record(out: Path, metrics: str = "a step\n", weights: bool = True) -> Path:
    """A folder with a record, and with files that are none of it."""
    out.mkdir(exist_ok=True)
    now = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    StatusFile(out / "run_status.json", steps=1, world=1, bundle="", now=lambda: now)
    (out / "metrics.jsonl").write_text(metrics)
    (out / "model.moe").write_text("model")
    (out / "notes.txt").write_text("mine")
    if weights:
        (out / "weights").mkdir()
        (out / "weights" / "weights.json").write_bytes(index_text(Index(0, {}, {})))
    return out


def test_a_record_moves_into_a_folder_of_its_time(tmp_path: Path) -> None:
    everything = {"metrics.jsonl", "model.moe", "run_status.json", "weights"}
    for name in ("previous-20260102T030405", "previous-20260102T030405-2"):
        aside = set_aside(record(tmp_path / "run"))
        assert aside == tmp_path / "run" / name
        assert {path.name for path in aside.iterdir()} == everything
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {"notes.txt", "previous-20260102T030405", "previous-20260102T030405-2"}


def test_a_record_without_steps_and_weights_is_not_kept(tmp_path: Path) -> None:
    out = record(tmp_path / "run", metrics="", weights=False)
    before = set(out.iterdir())
    assert set_aside(out) is None
    assert set_aside(tmp_path / "none") is None
    assert set(out.iterdir()) == before


def test_a_record_with_a_damaged_verdict_moves_too(tmp_path: Path) -> None:
    out = record(tmp_path / "run")
    (out / "run_status.json").write_text("damaged")
    aside = set_aside(out)
    assert aside is not None
    assert (aside / "run_status.json").read_text() == "damaged"


def test_what_is_no_weights_is_not_moved(tmp_path: Path) -> None:
    out = record(tmp_path / "run")
    (out / "weights" / "thesis.tex").write_text("all of it")
    before = set(out.rglob("*"))
    with pytest.raises(UserError, match=r"thesis\.tex"):
        set_aside(out)
    assert set(out.rglob("*")) == before
