"""The parts of the watchdog, without a process that hangs: limits, places, reports, meetings, scores."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moec.runtime.errors import UserError
from moec.runtime.executor import Position
from moec.runtime.loop import Wish
from moec.runtime.training import StepResult
from moec.runtime.transport.single import SingleTransport
from moec.runtime.watchdog.board import Board, clear, remove
from moec.runtime.watchdog.council import Council
from moec.runtime.watchdog.launcher import VARIABLE, Launcher, signature
from moec.runtime.watchdog.limits import Limits, parse_limits
from moec.runtime.watchdog.place import Frame, Place, is_gone
from moec.runtime.watchdog.processes import born, this_host
from moec.runtime.watchdog.report import gone, stalled
from moec.runtime.watchdog.stragglers import WINDOW_STEPS, Stragglers, warning

WAIT = Frame("layer_0.forward", "rows", "all_to_all", "expert", "tiny.moe:10")


def place(rank: int, **changes: Any) -> Place:
    me = Place(rank, this_host(), os.getpid(), born(os.getpid()), 100.0, 90.0, "step", 7, 1000)
    return replace(me, **changes)


# --- limits ---


def test_limits_of_all_sections_or_of_some() -> None:
    assert parse_limits("12.5") == Limits(12.5, 12.5, 12.5)
    assert parse_limits("step=3,checkpoint=9") == Limits(step_s=3, checkpoint_s=9)
    assert parse_limits("setup=9").of("set-up") == 9


@pytest.mark.parametrize("text", ["", "0", "-3", "soon", "step=", "step=1,stop=2", "1e9", "nan"])
def test_what_is_no_limit(text: str) -> None:
    with pytest.raises(UserError, match="--timeout"):
        parse_limits(text)


# --- places ---


def test_a_board_shows_what_was_posted_last(tmp_path: Path) -> None:
    clear(tmp_path / "ranks")
    first, second = (Board(tmp_path / "ranks", rank, 3) for rank in range(2))
    first.post(place(0, stack=(WAIT, WAIT, WAIT)))
    first.post(place(0, step=8))  # shorter
    second.post(place(1))
    assert first.places() == {0: place(0, step=8), 1: place(1)}
    assert (first.speak(), second.speak()) == (True, False)
    remove(tmp_path / "ranks")
    assert not (tmp_path / "ranks").exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"rank": 1}', b"\xff" * 100, b" " * 70_000])
def test_a_place_that_cannot_be_read_counts_as_not_there(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rank-00001").write_bytes(content)
    assert Board(tmp_path, 0, 2).places() == {}


def test_nothing_is_raised_without_a_folder(tmp_path: Path) -> None:
    board = Board(tmp_path / "nowhere", 0, 1)
    board.post(place(0))
    assert board.places() == {}
    assert board.speak()


def test_a_process_that_has_ended_is_gone_and_one_of_another_machine_may_not_be() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    there = place(1, pid=child.pid, born=born(child.pid))
    assert not is_gone(there)
    assert is_gone(replace(there, born=there.born + 1))  # a later process of that number
    child.kill()
    child.wait()
    assert is_gone(there)
    assert not is_gone(replace(there, host="elsewhere"))


# --- reports ---


def test_a_stall_names_who_gives_no_sign_of_life_and_where_all_are() -> None:
    places = {0: place(0, stack=(Frame("step", "x", "call"), WAIT)), 1: place(1, time_s=80.0)}
    assert stalled(places, 3, 30.4, 100.0, 1.0).splitlines() == [
        "no progress for 30 s; no sign of life from ranks 1, 2",
        "  rank 0: step 7, step > layer_0.forward: %rows = all_to_all over expert (tiny.moe:10)",
        "  rank 1: step 7, between programs, 20.0 s ago",
        "  rank 2: has not said where it is",
    ]


def test_a_stall_names_who_is_not_where_the_others_are() -> None:
    places = {rank: place(rank, stack=(WAIT,)) for rank in range(3)} | {3: place(3, step=6)}
    head, *_ = stalled(places, 4, 5.0, 100.0, 1.0).splitlines()
    assert head == "no progress for 5 s; not where the others are: rank 3"


def test_a_rank_that_is_gone_is_named_with_its_last_place() -> None:
    text = gone({0: place(0), 1: place(1, time_s=98.5, step=-1)}, [1], 2, 100.0)
    assert text.splitlines() == [
        "rank 1 is gone: killed, or left without a word",
        "  rank 0: step 7, between programs",
        "  rank 1: set-up, between programs, 1.5 s ago",
    ]


# --- the launcher ---


def test_a_launcher_is_gone_when_its_process_is() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    launcher = Launcher({VARIABLE: signature(child.pid)})
    assert not launcher.is_gone()
    child.kill()
    child.wait()
    assert launcher.is_gone()


@pytest.mark.parametrize("text", ["", "x", "1:x", "999999999:5"])
def test_a_launcher_of_another_machine_is_not_missed(text: str) -> None:
    assert not Launcher({VARIABLE: text}).is_gone()


# --- meetings ---


class Asked:
    """Signals, as far as a council asks."""

    stops: list[int] = []  # noqa: RUF012


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def result(step: int) -> StepResult:
    return StepResult(step, {"loss": 1.0}, 1.0, 0.1, 8, 0.1, {})


def test_ranks_meet_rarely_where_steps_are_short_and_stop_after_the_same_step() -> None:
    """The first step shows how long one takes: 0.1 s, so that five make half a second."""
    asked, clock, meetings = Asked(), Clock(), []

    class Counting(SingleTransport):
        def exchange(self, data: bytes) -> list[bytes]:
            meetings.append(step)
            return super().exchange(data)

    signals: Any = asked
    council = Council(Counting(), signals, Position(), lambda found, step: None, clock)
    wishes = []
    for step in range(12):
        council.before_step(step)
        clock.now_s += 0.1
        asked.stops = [10] if step >= 7 else []
        wishes.append(council.after_step(result(step)))
    assert meetings[0] == 0
    assert len(meetings) == 3
    first = next(step for step, wish in enumerate(wishes) if wish)
    assert first == meetings[2]
    assert wishes[first] == Wish("stop", "asked to stop by SIGUSR1")


# --- slow ranks ---


def test_scores_by_the_fastest_and_by_the_own_best() -> None:
    found = Stragglers(3)
    assert not found.add([9.0, 9.0, 9.0], 1, 9.0)  # left out: it holds what is done once
    assert found.add([0.1, 0.1, 0.2], WINDOW_STEPS, 0.25)
    assert [(s.relative, s.own) for s in found.scores] == [(1.0, 1.0), (1.0, 1.0), (0.5, 1.0)]
    assert [s.rank for s in found.slow] == [2]
    assert found.add([0.1, 0.4, 0.2], WINDOW_STEPS, 0.45)
    assert [round(s.own, 3) for s in found.scores] == [1.0, 0.25, 1.0]
    assert [s.rank for s in found.slow] == [1, 2]
    assert warning(found.slow[0], 100, found.step_s).startswith(
        "rank 1 is slow: 0.400 s of a step of 0.450 s"
    )


def test_what_does_not_matter_is_no_straggler() -> None:
    """Half as fast as the others, in what is a hundredth of a step."""
    found = Stragglers(2)
    found.add([0, 0], 1, 1.0)
    assert found.add([0.005, 0.01], WINDOW_STEPS, 1.0)
    assert found.slow == ()
