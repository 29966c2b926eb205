"""Trackers: found by name, told of a run in order, and let go of when they fail; none ends a run."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from moec.runtime.errors import EnvironmentMismatch, UserError
from moec.runtime.record.metrics import StepMetrics
from moec.runtime.record.recorder import RunRecord
from moec.runtime.trackers import load
from moec.runtime.trackers.api import RunFacts, Tracker
from moec.runtime.trackers.bank import Trackers
from moec.runtime.trackers.load import Found, check_tracker, find_tracker
from moec.runtime.trackers.scalars import scalars


def facts(out: Path, done: int = 0) -> RunFacts:
    return RunFacts(out, "tiny", 100, 50, 2, 10, done, "digest", {"training": {"lr": 0.1}})


def step(number: int, **more: Any) -> StepMetrics:
    return StepMetrics(number, 2.5, 1.0, 3e-4, 64, 128.0, 0.5, **more)


class Noting:
    """Writes down what it is told, and fails at the call that is named."""

    def __init__(self, argument: str, run: RunFacts) -> None:
        self.told: list[Any] = [("open", argument, run.done)]
        self.failing = argument

    def _note(self, name: str, *what: Any) -> None:
        self.told.append((name, *what))
        if name == self.failing:
            raise RuntimeError("no\x1b[2J network")
        if name == "step" and self.failing == "exit":
            sys.exit(3)

    def step(self, metrics: StepMetrics) -> None:
        self._note("step", metrics.step)

    def rewound(self, step: int) -> None:
        self._note("rewound", step)

    def validation(self, step: int, losses: Mapping[str, float]) -> None:
        self._note("validation", step, dict(losses))

    def event(self, step: int, kind: str, text: str) -> None:
        self._note("event", step, kind, text)

    def finish(self, state: str, exit_code: int, reason: str) -> None:
        self._note("finish", state, exit_code, reason)


def opened(*arguments: str, out: Path) -> tuple[Trackers, list[Noting], list[str]]:
    """A `Noting` for each argument; the trackers, and what is said of them."""
    made: list[Noting] = []
    said: list[str] = []

    def make(argument: str, run: RunFacts) -> Tracker:
        made.append(Noting(argument, run))
        return made[-1]

    trackers = Trackers(said.append)
    trackers.open([Found("noting", argument, make) for argument in arguments], facts(out))
    return trackers, made, said


def test_a_record_tells_trackers_of_the_run_in_order(tmp_path: Path) -> None:
    trackers, (noting,), said = opened("", out=tmp_path)
    with RunRecord(tmp_path, steps=3, world=1, bundle="", state_bytes={}, trackers=trackers) as record:
        record.step(step(0))
        record.step(step(1, validation_loss={"held.txt": 2.0}))
        record.event("checkpoint", "step 2 is saved")
        record.rewound(1)
        record.step(step(1))
        record.complete({})
    assert noting.told == [
        ("open", "", 0),
        ("step", 0),
        ("step", 1),
        ("validation", 2, {"held.txt": 2.0}),
        ("event", 2, "checkpoint", "step 2 is saved"),
        ("rewound", 1),
        ("step", 1),
        ("finish", "complete", 0, ""),
    ]
    assert not said


def test_a_run_that_fails_or_stops_says_so(tmp_path: Path) -> None:
    trackers, (failed,), _ = opened("", out=tmp_path)
    with (
        pytest.raises(UserError),
        RunRecord(tmp_path, steps=3, world=1, bundle="", state_bytes={}, trackers=trackers),
    ):
        raise UserError("no such file")
    assert failed.told[-1] == ("finish", "failed", 1, "no such file")
    trackers, (stopped,), _ = opened("", out=tmp_path)
    with RunRecord(tmp_path, steps=3, world=1, bundle="", state_bytes={}, trackers=trackers) as record:
        record.stopped("SIGUSR1")
    assert stopped.told[1:] == [("finish", "stopped", 75, "SIGUSR1")]


@pytest.mark.parametrize("failing", ["step", "rewound", "validation", "event", "finish", "exit"])
def test_a_tracker_that_fails_is_said_and_off_and_the_others_go_on(failing: str, tmp_path: Path) -> None:
    trackers, (bad, good), said = opened(failing, "", out=tmp_path)
    trackers.step(step(0, validation_loss={"a": 1.0}))
    trackers.rewound(0)
    trackers.event("warning", "hot")
    trackers.step(step(0))
    trackers.finish("complete", 0, "")
    trackers.finish("failed", 70, "a second time")
    assert [name for name, *_ in good.told] == [
        "open", "step", "validation", "rewound", "event", "step", "finish",
    ]  # fmt: skip
    assert bad.told[-1][0] == ("step" if failing == "exit" else failing)
    (text,) = said
    assert text.startswith(f"tracker noting:{failing} failed after ")
    assert "SystemExit: 3" in text if failing == "exit" else "RuntimeError: no?[2J network" in text


def test_a_tracker_that_cannot_be_opened_is_off(tmp_path: Path) -> None:
    said: list[str] = []

    def broken(argument: str, run: RunFacts) -> Tracker:
        raise OSError("no disk")

    trackers = Trackers(said.append)
    trackers.open([Found("broken", "", broken)], facts(tmp_path))
    trackers.step(step(0))
    assert said == ["tracker broken failed after 0 steps, and is off: OSError: no disk"]


def entries(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    """Entry points as installed packages register them."""
    listed = [EntryPoint(name, value, "moec.trackers") for name, value in values.items()]
    monkeypatch.setattr(load, "entry_points", lambda group: [e for e in listed if e.group == group])


def test_packages_register_trackers_by_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = ModuleType("a_package_of_somebody")
    module.open_tracker = Noting  # type: ignore[attr-defined]
    module.number = 3  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    entries(
        monkeypatch,
        mine="a_package_of_somebody:open_tracker",
        number="a_package_of_somebody:number",
        gone="a_package_that_is_not_there:open_tracker",
    )
    found = find_tracker("mine:project/run:1")
    assert (found.name, found.argument) == ("mine", "project/run:1")
    trackers = Trackers()
    trackers.open([found], facts(tmp_path))
    check_tracker("mine")
    with pytest.raises(UserError, match=r"--tracker wandb: .*there are gone, mine, number, tensorboard"):
        find_tracker("wandb")
    with pytest.raises(EnvironmentMismatch, match=r"--tracker gone: .*a_package_that_is_not_there"):
        find_tracker("gone")
    with pytest.raises(EnvironmentMismatch, match="is no function"):
        find_tracker("number")


def test_two_packages_with_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [EntryPoint("mine", f"{package}:open", "moec.trackers") for package in ("a", "b")]
    monkeypatch.setattr(load, "entry_points", lambda group: both)
    with pytest.raises(UserError, match="a:open and b:open have that name"):
        find_tracker("mine")


def test_tensorboard_without_its_library_is_a_named_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(EnvironmentMismatch, match=r"pip install 'moec\[tensorboard\]'"):
        check_tracker("tensorboard")


def test_numbers_of_a_step_by_name() -> None:
    metrics = step(
        3,
        mfu=0.5,
        expert_load={"layers.0.experts": [1, 2]},
        router_entropy={"layers.0.experts": 1.5},
        bytes_sent={"shard": {"all_gather": 8}},
        validation_loss={"held.txt": 2.0},
    )
    assert scalars(metrics) == {
        "loss": 2.5, "grad_norm": 1.0, "lr": 3e-4, "tokens": 64.0, "tokens_per_s": 128.0, "step_s": 0.5,
        "aux_loss": 0.0, "mfu": 0.5, "router_entropy/layers.0.experts": 1.5,
        "bytes_sent/shard/all_gather": 8.0,
    }  # fmt: skip
