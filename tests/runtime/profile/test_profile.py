"""Traces of chosen steps: the Trace Event Format, every instruction of every rank, and nothing else."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from moec.runtime.abi.bundle import read_bundle
from moec.runtime.abi.program import Instruction, Ref
from moec.runtime.errors import UserError
from moec.runtime.loop import Companion, Wish, train
from moec.runtime.observe_options import Observing, parse_steps
from moec.runtime.observing import check_profiled
from moec.runtime.profile import spans
from moec.runtime.profile.chrome import rank_events
from moec.runtime.profile.clocks import Clock
from moec.runtime.profile.profiler import Profiler
from moec.runtime.profile.spans import Recording
from moec.runtime.training import StepResult
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks
from small_training import bundle_of, trainer

PHASES = {
    "X": {"name", "cat", "ph", "pid", "tid", "ts", "dur", "args"},
    "M": {"name", "ph", "pid", "tid", "args"},
}


def check_format(trace: dict[str, Any]) -> None:
    """The Trace Event Format, as far as these events use it."""
    assert trace.keys() == {"displayTimeUnit", "otherData", "traceEvents"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    for event in trace["traceEvents"]:
        assert event.keys() == PHASES[event["ph"]]
        assert isinstance(event["name"], str)
        assert all(type(event[key]) is int and event[key] >= 0 for key in ("pid", "tid"))
        if event["ph"] == "X":
            assert type(event["ts"]) in (int, float)
            assert event["dur"] >= 0
            assert isinstance(event["args"], dict)
    check_nested(trace["traceEvents"])


def check_nested(events: list[dict[str, Any]]) -> None:
    """Slices of a thread lie in each other or apart: what overlaps otherwise cannot be drawn."""
    threads: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for event in events:
        if event["ph"] == "X":
            threads.setdefault((event["pid"], event["tid"]), []).append(
                (event["ts"], event["ts"] + event["dur"])
            )
    for slices in threads.values():
        open_ends: list[float] = []
        for begin, end in sorted(slices, key=lambda s: (s[0], -s[1])):
            while open_ends and open_ends[-1] <= begin + 0.0015:  # of rounding to nanoseconds
                open_ends.pop()
            assert not open_ends or end <= open_ends[-1] + 0.0015
            open_ends.append(end)


class Stopping(Companion):
    """Ends the run after a step."""

    def __init__(self, last: int) -> None:
        self.last = last

    def after_step(self, result: StepResult) -> Wish | None:
        return Wish("stop", "for the test") if result.step == self.last else None


def profiled(folder: Path, steps: range, layout: dict[str, int], stop: int | None = None) -> list[str]:
    """Four steps on the ranks of a layout; what rank 0 says."""
    path = bundle_of(folder / "bundle", **layout)
    said: list[str] = []
    written = threading.Lock()

    def rank(transport: Transport) -> None:
        one = trainer(path, transport, steps=4)
        plain = dict(one.job.executor.code)

        def say(text: str) -> None:
            with written:
                said.append(text)

        companions: list[Companion] = [Profiler(one.job, steps, folder / "out", say)]
        companions += [Stopping(stop)] if stop is not None else []
        train(one, range(4), companions, lambda result: None)
        assert one.job.executor.code == plain  # nothing is observed any more

    run_ranks(layout.get("shard", 1) * layout.get("replicate", 1), rank)
    return said


def trace_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "out" / "profile" / "trace.json").read_text())
    return found


def test_a_trace_has_every_instruction_of_every_rank_in_the_chosen_steps(tmp_path: Path) -> None:
    said = profiled(tmp_path, range(1, 3), {"shard": 2, "expert": 2})
    assert said == [f"profile of steps 1..2: {tmp_path / 'out' / 'profile' / 'trace.json'}"]
    assert [path.name for path in (tmp_path / "out" / "profile").iterdir()] == ["trace.json"]
    trace = trace_of(tmp_path)
    check_format(trace)
    assert (trace["otherData"]["steps"], trace["otherData"]["missing_ranks"]) == ([1, 2], [])
    complete = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    names = {event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"}
    assert names == {"rank 0", "rank 1"}
    for rank in (0, 1):
        mine = [event for event in complete if event["pid"] == rank]
        ran = Counter(
            (e["args"]["program"], e["args"]["instruction"])
            for e in mine
            if e["cat"] in ("call", "instruction")
        )
        assert ran == expected_instructions(tmp_path / "bundle", steps=2)
        assert [e["name"] for e in mine if e["cat"] == "step"] == ["step 1", "step 2"]
        assert {e["name"] for e in mine if e["cat"] == "call"} >= {"layers_1_forward", "layers_0_backward"}
        axes = {e["args"]["axis"] for e in mine if e["cat"] == "collective"}
        assert {"shard", "expert", "data"} <= axes
        assert all(e["args"]["moe"].startswith("small.moe:") for e in mine if e["cat"] == "collective")
    first, second = ([e["ts"] for e in complete if e["pid"] == r and e["cat"] == "step"] for r in (0, 1))
    assert first == pytest.approx(second, abs=1e6)  # one process: a second is far, what clocks say is near


def expected_instructions(bundle: Path, steps: int) -> Counter[tuple[str, str]]:
    """How often each runs: by walking through the programs."""
    programs = read_bundle(bundle).programs
    found: Counter[tuple[str, str]] = Counter()

    def walk(name: str) -> None:
        for instruction in programs[name].instructions:
            found[name, instruction.name] += 1
            if instruction.op == "moec.call":
                walk(instruction.arguments[0])

    for _ in range(steps):
        walk("step")
    return found


def test_a_run_that_stops_in_the_midst_leaves_what_there_is(tmp_path: Path) -> None:
    assert profiled(tmp_path, range(1, 4), {}, stop=2)[0].startswith("profile of steps 1..2: ")
    check_format(trace_of(tmp_path))


def test_a_profile_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    (said,) = profiled(tmp_path, range(1, 2), {})
    assert said.startswith("moec: warning: no profile: ")


def test_what_is_too_much_is_left_out_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spans, "MOST_SPANS", 2)
    recording = Recording(lambda: 0.0)
    watched = recording.watched("step", Instruction("a", "aten.neg.default", ()), lambda x: -x)
    assert [watched(i) for i in range(5)] == [0, -1, -2, -3, -4]
    assert (len(recording.spans), recording.lost) == (2, 3)


def test_an_instruction_that_fails_leaves_no_span() -> None:
    recording = Recording(lambda: 0.0)
    watched = recording.watched("step", Instruction("a", "aten.neg.default", ()), lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        watched()
    assert not recording.spans


def test_collectives_that_overlap_have_threads_of_their_own() -> None:
    """a is under way from 0 to 5, b from 1 to 3, c from 6 to 8: b does not fit into a's thread, c does."""
    clock = iter([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 6.5, 7.0, 8.0])
    recording = Recording(lambda: next(clock))
    for name, op, argument in (
        ("a", "moec.all_reduce_start", "shard"),
        ("b", "moec.all_reduce_start", "shard"),
        ("b_done", "moec.wait", Ref("b")),
        ("a_done", "moec.wait", Ref("a")),
        ("c", "moec.all_reduce_start", "shard"),
        ("c_done", "moec.wait", Ref("c")),
    ):
        arguments = (argument,) if op == "moec.wait" else (Ref("x"), argument)
        recording.watched("step", Instruction(name, op, arguments), lambda: None)()
    events = list(rank_events(0, Clock(0.0, 0.0, 0.0), recording, []))
    threads = {event["name"]: event["tid"] for event in events if event.get("cat") == "collective"}
    assert threads == {"a_done": 1, "b_done": 2, "c_done": 1}
    named = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert named == {0: "steps and instructions", 1: "shard communicator", 2: "shard communicator 2"}
    check_nested(events)


def test_steps_to_profile_are_written_as_a_range() -> None:
    assert (parse_steps("10..12"), parse_steps("3")) == (range(10, 13), range(3, 4))
    for text, message in (
        ("12..10", "the last step comes before the first"),
        ("a..b", "FIRST..LAST"),
        ("-1..2", "FIRST..LAST"),
        ("1..", "FIRST..LAST"),
        ("0..1000", "at most 1000 steps"),
        ("9" * 5000, "FIRST..LAST"),
    ):
        with pytest.raises(UserError, match=message):
            parse_steps(text)
    with pytest.raises(UserError, match=r"--profile 10\.\.12: the last step of this run is 9"):
        check_profiled(Observing(range(10, 13)), 10)
    check_profiled(Observing(range(9, 13)), 10)
