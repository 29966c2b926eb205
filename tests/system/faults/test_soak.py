"""Runs that are killed at random moments, again and again, and lose nothing.

A run is started, and at a random moment within its first new steps a rank, all ranks or their launcher are
killed with SIGKILL; saves are hit, too, as there is one every other step. Then it is started again, until
that has been done often enough, and is left alone to its end. After every kill the record has the losses of a
run that was never disturbed, to the last bit, as far as it goes; and no checkpoint that was complete before
is missing or damaged, but for those that newer ones have replaced.

Five kills are in `make test`; a hundred, ten minutes, in `pytest tests/system/faults/test_soak.py -m slow`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from moec.runtime.checkpoint.folders import complete_steps, folder_name, unfinished
from moec.runtime.checkpoint.inspect import problems
from mpi_job import alive, job
from system.command_line import MODEL, ON_TWO, content, losses, sets, status, succeed

EVERY, KEEP = 2, 3
START_S = 120.0  # for a run to come to its first new step
MOST_STEPS, MOST_S = 7, 0.15
"""How many new steps are waited for before the kill at most, and how long after them."""

pytestmark = pytest.mark.mpi


@dataclass
class Soak:
    """A bundle of so many steps, data, and what an undisturbed run of it came to."""

    folder: Path
    steps: int
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        changes = (*MODEL, *ON_TWO, f"train.steps={self.steps}")
        saves = f"train.checkpoint=saved(every: {EVERY}, keep: {KEEP})"
        succeed("compile", "tiny", "-o", self.folder / "bundle", *sets(*changes, saves))
        lines = (f"{n} bottles hang on the wall, take one down, {n * n} remain.\n" for n in range(2000))
        (self.folder / "text.txt").write_text("".join(lines))
        self.whole = self.folder / "whole"
        self.finish(self.whole)
        self.losses = losses(self.whole)

    def line(self, out: Path) -> list[str | Path]:
        data = self.folder / "text.txt"
        return ["-m", "moec", "run", self.folder / "bundle", "--data", data, "--out", out, "--resume"]

    def finish(self, out: Path) -> None:
        """Go on to the end, undisturbed."""
        done = job(2, self.line(out), timeout_s=START_S + self.steps * 2)
        assert done.rc == 0, done.output
        assert status(out)["state"] == "complete"

    def kill_once(self, out: Path) -> None:
        """Start or go on, kill somebody at some moment, and wait until all of them are gone."""
        steps, delay_s = self.chance.randint(0, MOST_STEPS), self.chance.uniform(0, MOST_S)
        victim = self.chance.choice(("rank 0", "rank 1", "all ranks", "launcher"))

        def during(process: subprocess.Popen[bytes]) -> None:
            wait_for_steps(steps, out / "metrics.jsonl", process)
            time.sleep(delay_s)
            kill(victim, process.pid)
            wait_for_end(process.pid)

        done = job(2, self.line(out), timeout_s=START_S + 60, during=during)
        assert not done.timed_out, done.output
        assert done.survivors == 0, done.output
        self.kills[victim] += done.rc != 0
        self.kills["in a save"] += bool(unfinished(out / "checkpoints"))


def kill(victim: str, session: int) -> None:
    """By its name: ranks are the children of the launcher, which leads the session."""
    ranks = sorted(pid for pid in alive(session) if pid != session and is_rank(pid))
    chosen = {"rank 0": ranks[:1], "rank 1": ranks[1:2], "all ranks": ranks, "launcher": [session]}[victim]
    for pid in chosen:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:  # the run has just come to its end
            continue


def is_rank(pid: int) -> bool:
    try:
        return b"moec" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def wait_for_end(session: int) -> None:
    """Ranks without their launcher end by themselves, soon: two runs in one folder would be one too many."""
    deadline = time.monotonic() + 30
    while any(pid != session and is_rank(pid) for pid in alive(session)):
        assert time.monotonic() < deadline, "ranks live on"
        time.sleep(0.02)


def wait_for_steps(steps: int, record: Path, process: subprocess.Popen[bytes]) -> None:
    """Until a run that goes on has opened its record, which may cut off some steps, and added so many."""
    deadline, begun, added, lines = time.monotonic() + START_S, changed_ns(record), 0, 0
    while process.poll() is None and (added < steps or changed_ns(record) == begun):
        assert time.monotonic() < deadline, "no step was done"
        found = record.read_bytes().count(b"\n") if record.exists() else 0
        added, lines = added + (max(0, found - lines) if changed_ns(record) != begun else 0), found
        time.sleep(0.003)


def changed_ns(path: Path) -> int:
    """When a file was written last; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def recorded(out: Path) -> list[float]:
    """The losses in the record, whose last line may be cut off."""
    path = out / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line)["loss"] for line in lines]


def soak(folder: Path, steps: int, kills: int, seed: int) -> Counter[str]:
    """Do it; what was killed how often. A run that has come to its end is followed by another one."""
    case = Soak(folder, steps, random.Random(seed))
    out, newest = folder / "round0", 0
    for number in range(kills):
        case.kill_once(out)
        newest = check_nothing_lost(case, out, newest)
        if status(out)["state"] == "complete":
            assert_same(case, out)
            out, newest = folder / f"round{number + 1}", 0
    assert_same(case, out)
    return case.kills


def check_nothing_lost(case: Soak, out: Path, newest: int) -> int:
    """The record is that of the undisturbed run, and the newest checkpoint no older than it was."""
    found, root = recorded(out), out / "checkpoints"
    assert found == case.losses[: len(found)], "the losses are others"
    saved = complete_steps(root)
    assert max([0, *saved]) >= newest, f"checkpoint {newest} is lost, there are {saved}"
    for step in saved:
        assert list(problems(root / folder_name(step))) == []
    return max([0, *saved])


def assert_same(case: Soak, out: Path) -> None:
    """What is left of the run, undisturbed, ends it with the same losses and weights."""
    case.finish(out)
    assert losses(out) == case.losses
    assert content(out / "weights") == content(case.whole / "weights")
    assert unfinished(out / "checkpoints") == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_five_kills(tmp_path: Path) -> None:
    kills = soak(tmp_path, steps=40, kills=5, seed=1)
    assert sum(kills[name] for name in ("rank 0", "rank 1", "all ranks", "launcher")) >= 4, kills


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_kills(tmp_path: Path) -> None:
    kills = soak(tmp_path, steps=200, kills=100, seed=2)
    print(f"killed: {dict(kills)}")
    assert sum(kills[name] for name in ("rank 0", "rank 1", "all ranks", "launcher")) >= 90, kills
    assert kills["in a save"] >= 5, kills
