"""run_status.json: always whole, and the run's own verdict whatever the launcher says."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from moec.runtime.errors import ExitCode, IntegrityError, UserError
from moec.runtime.record.status import RunStatus, StatusFile, mark_failed, read_status


class Time:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def clock(self) -> float:
        return self.now_s

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now_s)


def start(path: Path, time: Time) -> StatusFile:
    return StatusFile(path, steps=10, world=4, bundle="6f0c", clock=time.clock, now=time.now)


def test_a_run_writes_its_start_its_progress_now_and_then_and_its_end(tmp_path: Path) -> None:
    path, time = tmp_path / "run_status.json", Time()
    file = start(path, time)
    begin = "2026-01-01T00:01:40+00:00"
    running = RunStatus("running", 0, 10, None, None, "", 4, "6f0c", begin, begin)
    assert read_status(path) == running
    time.now_s += 4.9
    file.advance(3, 2.5)
    assert read_status(path) == running
    time.now_s += 0.2
    file.advance(4, 2.25)
    later = "2026-01-01T00:01:45+00:00"
    assert read_status(path) == RunStatus("running", 4, 10, 2.25, None, "", 4, "6f0c", begin, later)
    file.advance(10, 2.0)
    file.end()
    assert read_status(path) == RunStatus("complete", 10, 10, 2.0, 0, "", 4, "6f0c", begin, later)
    assert [p.name for p in tmp_path.iterdir()] == ["run_status.json"]


def test_it_is_json_with_the_documented_keys(tmp_path: Path) -> None:
    start(tmp_path / "run_status.json", Time())
    keys = {
        "state", "step", "steps", "loss", "exit_code", "reason", "world", "bundle", "started", "updated",
        "state_bytes",
    }  # fmt: skip
    assert json.loads((tmp_path / "run_status.json").read_text()).keys() == keys


def test_a_failure_has_code_and_reason_and_the_last_step(tmp_path: Path) -> None:
    path = tmp_path / "run_status.json"
    file = start(path, Time())
    file.advance(3, float("nan"))
    file.end(ExitCode.NUMERICAL, "loss is nan in step 3\n  from model.moe:4 \udcff" + "x" * 20_000)
    status = read_status(path)
    assert (status.state, status.step, status.loss, status.exit_code) == ("failed", 3, None, 87)
    assert status.reason.startswith("loss is nan in step 3\n  from model.moe:4 ?xxx")
    assert len(status.reason) == 10_000


def test_a_rank_that_fails_alone_leaves_the_first_verdict(tmp_path: Path) -> None:
    path = tmp_path / "run_status.json"
    mark_failed(path, 70, "there was no run yet")
    assert not path.exists()
    start(path, Time())
    mark_failed(path, 88, "rank 3 lost its peer")
    mark_failed(path, 70, "and then another failed")
    status = read_status(path)
    assert (status.state, status.exit_code, status.reason) == ("failed", 88, "rank 3 lost its peer")
    path.write_text("damaged")
    mark_failed(path, 70, "raises nothing")
    assert path.read_text() == "damaged"


def test_a_rank_that_fails_alone_knows_the_last_step(tmp_path: Path) -> None:
    """The file is written now and then; whoever marks it may know of later steps, or of fewer."""
    path = tmp_path / "run_status.json"
    start(path, Time())
    mark_failed(path, 74, "the disk is gone", 3, 2.5)
    status = read_status(path)
    assert (status.state, status.step, status.loss) == ("failed", 3, 2.5)
    file = start(path, Time())
    file.advance(5, 2.25)
    file.end(0)
    mark_failed(path, 74, "too late", 3, 2.5)
    assert read_status(path).step == 5


def test_rank_0_does_not_take_back_that_another_rank_failed(tmp_path: Path) -> None:
    """Whatever it has to say; the next run of the folder does."""
    path, time = tmp_path / "run_status.json", Time()
    file = start(path, time)
    mark_failed(path, 74, "the disk is gone", 3, 2.5)
    failed = read_status(path)
    time.now_s += 60
    file.advance(4, 2.25)
    file.end(0)
    assert read_status(path) == failed
    start(path, time)
    assert read_status(path).state == "running"


def test_a_failure_is_kept_if_rank_0_writes_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "run_status.json"
    for _ in range(10):
        file = StatusFile(path, steps=10, world=2, bundle="", interval_s=0.0)
        rank_0 = threading.Thread(target=lambda file=file: [file.advance(step, 1.0) for step in range(20)])
        rank_0.start()
        mark_failed(path, 74, "the disk is gone")
        rank_0.join()
        assert read_status(path).state == "failed"


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run_status.json"
    with pytest.raises(UserError, match="no file"):
        read_status(path)
    start(path, Time())
    good = path.read_text()
    for content in (
        "",
        "[]",
        "{}",
        good.replace('"running"', '"walking"'),
        good.replace('"step": 0', '"step": "0"'),
        good.replace('"world": 4', '"world": 4, "x": 1'),
        good.replace('"world": 4', '"world": 4, "world": 5'),
        good.replace('"loss": null', '"loss": NaN'),
        good + " " * (1 << 20),
    ):
        path.write_text(content)
        with pytest.raises(IntegrityError, match=r"run_status\.json"):
            read_status(path)


def test_a_missing_directory_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no directory"):
        start(tmp_path / "none" / "run_status.json", Time())


def test_a_run_that_is_stopped_and_saved_is_neither_complete_nor_failed(tmp_path: Path) -> None:
    """Its verdict stays when its launcher only sees a code, and goes when a run that goes on fails."""
    path = tmp_path / "run_status.json"
    file = StatusFile(path, steps=10, world=1, bundle="", step=4)
    file.advance(5, 1.0)
    file.end(ExitCode.STOPPED_EARLY, "USR1")
    found = read_status(path)
    assert (found.state, found.step, found.exit_code, found.reason) == ("stopped", 5, 75, "USR1")
    mark_failed(path, 75, "the ranks ended")
    assert read_status(path) == found
    mark_failed(path, 76, "damaged", replaces=True)
    assert (read_status(path).state, read_status(path).reason) == ("failed", "damaged")
