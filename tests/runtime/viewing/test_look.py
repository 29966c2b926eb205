"""What is said of a run from outside: going on, over, or silent for too long; and its exit code."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from moec.cli.main import run as moec
from moec.runtime.abi.codec import dump, to_data
from moec.runtime.errors import ExitCode, IntegrityError, UserError
from moec.runtime.record.metrics import StepMetrics, line_of
from moec.runtime.record.status import RunStatus
from moec.runtime.viewing.look import MEANINGS, look_at, patience_s
from moec.runtime.viewing.words import data, lines

STARTED = datetime(2026, 1, 1, 12, tzinfo=UTC)
RUNNING = RunStatus(
    "running", 4, 10, 2.5, None, "", 2, "digest", STARTED.isoformat(), STARTED.isoformat(), {}
)


def step(number: int, step_s: float = 2.0, **more: Any) -> StepMetrics:
    return StepMetrics(number, 2.5 - number, 1.0, 3e-4, 64, 128.0, step_s, **more)


def leave(out: Path, status: RunStatus = RUNNING, steps: int = 4, step_s: float = 2.0) -> Path:
    """What a run leaves, its files of the time that its status has."""
    out.mkdir(exist_ok=True)
    (out / "run_status.json").write_bytes(dump(to_data(status)))
    (out / "metrics.jsonl").write_bytes(b"".join(line_of(step(n, step_s)) for n in range(steps)))
    os.utime(out / "metrics.jsonl", (STARTED.timestamp(), STARTED.timestamp()))
    return out


def test_a_run_that_goes_on(tmp_path: Path) -> None:
    look = look_at(leave(tmp_path / "run"), STARTED + timedelta(seconds=30))
    assert (look.silent_s, look.probably_dead, look.exit_code) == (30.0, False, 0)
    assert (look.done, look.left_s, look.loss) == (4, 12.0, -0.5)
    assert "state       running, last sign of life 0:30 ago" in lines(look)
    assert "step        4/10 (40%), 0:12 left" in lines(look)


def test_metrics_are_newer_than_the_status(tmp_path: Path) -> None:
    """The status is written every few seconds, metrics at every step: both are signs of life."""
    out = leave(tmp_path / "run", steps=7)
    later = STARTED.timestamp() + 100
    os.utime(out / "metrics.jsonl", (later, later))
    look = look_at(out, STARTED + timedelta(seconds=110))
    assert (look.done, look.silent_s) == (7, 10.0)


@pytest.mark.parametrize(("step_s", "steps", "limit_s"), [(2.0, 4, 60.0), (30.0, 4, 300.0), (2.0, 0, 1800.0)])
def test_silence_of_many_steps_is_death(step_s: float, steps: int, limit_s: float, tmp_path: Path) -> None:
    """Sixty seconds, or ten of its steps if they take longer; half an hour before the first step."""
    out = leave(tmp_path / "run", steps=steps, step_s=step_s)
    alive = look_at(out, STARTED + timedelta(seconds=limit_s))
    dead = look_at(out, STARTED + timedelta(seconds=limit_s + 1))
    assert patience_s(alive.recent) == limit_s
    assert (alive.probably_dead, alive.exit_code) == (False, 0)
    assert (dead.probably_dead, dead.exit_code) == (True, ExitCode.LOST_PEER)
    assert "probably dead: no sign of life for" in lines(dead)[1]
    assert data(dead)["probably_dead"] is True


@pytest.mark.parametrize(
    ("state", "code"), [("complete", 0), ("stopped", 75), ("failed", 1), ("failed", 86), ("failed", 139)]
)
def test_a_run_that_is_over_has_its_own_code(state: Any, code: int, tmp_path: Path) -> None:
    """However long ago, and with its meaning in words."""
    status = replace(RUNNING, state=state, exit_code=code, reason="why" if code else "")
    look = look_at(leave(tmp_path / "run", status), STARTED + timedelta(days=300))
    assert (look.exit_code, look.probably_dead, look.left_s) == (code, False, None)
    said = lines(look)
    assert f"state       {state}" in said
    assert (f"exit code   {code}: {MEANINGS.get(code, 'see its output')}" in said) == (code != 0)


def test_every_exit_code_has_a_meaning() -> None:
    assert set(ExitCode) <= MEANINGS.keys()


def test_checkpoints_are_those_that_are_complete(tmp_path: Path) -> None:
    out = leave(tmp_path / "run")
    for name in ("step-00000002", "step-00000004", "step-00000006.tmp-0123abcd", "notes"):
        (out / "checkpoints" / name).mkdir(parents=True)
    look = look_at(out, STARTED)
    assert data(look)["checkpoints"] == [2, 4]
    assert "checkpoints 2: steps 2, 4" in lines(look)


def test_the_command_and_its_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = leave(tmp_path / "run", replace(RUNNING, state="failed", exit_code=86, reason="two\nlines"))
    assert moec(["status", str(out), "--json"]) == 86
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["exit_code"], found["step"], found["steps"]) == ("failed", 86, 4, 10)
    assert found["exit_meaning"] == MEANINGS[86]
    assert found["loss"] == -0.5
    assert moec(["status", str(out)]) == 86
    assert "reason      two\n            lines\n" in capsys.readouterr().out
    assert moec(["status", str(tmp_path)]) == 1
    assert "is no run: it has no run_status.json" in capsys.readouterr().err
    (out / "run_status.json").write_text("{}")
    assert moec(["status", str(out)]) == 76


def test_files_from_anyone_are_refused_or_shown_without_harm(tmp_path: Path) -> None:
    hostile = replace(RUNNING, reason="\x1b]0;gone\x07\x9b2J", state="failed", exit_code=70)
    assert not any(
        ord(c) < 32 or c == "\x9b" for text in lines(look_at(leave(tmp_path, hostile))) for c in text
    )
    for change in ({"step": -1}, {"steps": 1 << 80}, {"updated": "yesterday"}, {"step": "4"}):
        out = leave(tmp_path / "run")
        status = json.loads((out / "run_status.json").read_text()) | change
        (out / "run_status.json").write_text(json.dumps(status))
        with pytest.raises(IntegrityError, match=r"run_status\.json"):
            look_at(out)
    out = leave(tmp_path / "run")
    odd = line_of(step(4)).replace(b'"step_s": 2.0', b'"step_s": null, "non_finite": {"step_s": "inf"}')
    (out / "metrics.jsonl").write_bytes(odd)
    look = look_at(out, STARTED)
    assert (look.left_s, data(look)["step_s"]) == (None, None)
    assert json.dumps(data(look), allow_nan=False)
    assert lines(look)
    with pytest.raises(UserError, match="is no run"):
        look_at(tmp_path / "nowhere")
