"""A run under mpirun that is watched: metrics, trace, trackers, and the commands that look at it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from moec.runtime.abi.buffers import trained_only
from moec.runtime.abi.bundle import read_manifest
from mpi_job import job
from system.command_line import losses, metrics, moec, refused, succeed

TRACKER = """
import json, pathlib


class Tracker:
    def __init__(self, argument, run):
        self.path = pathlib.Path(argument)
        self.note("open", run.model, run.world, run.steps, run.settings["training"]["seed"])

    def note(self, *what):
        with self.path.open("a") as file:
            file.write(json.dumps(what) + "\\n")

    def step(self, metrics):
        self.note("step", metrics.step, metrics.loss)
        if metrics.step == 3:
            raise ConnectionError("the service is away")

    def finish(self, state, exit_code, reason):
        self.note("finish")
"""
ENTRY = "[moec.trackers]\nnoting = noting_tracker:Tracker\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with an installed package that registers a tracker."""
    folder = tmp_path / "site"
    about = folder / "noting_tracker-1.0.dist-info"
    about.mkdir(parents=True)
    (folder / "noting_tracker.py").write_text(TRACKER)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: noting_tracker\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(ENTRY)
    return folder


@pytest.mark.mpi
def test_two_ranks_are_watched(
    bundle_of_two: Path, text: Path, finished: Path, package: Path, tmp_path: Path
) -> None:
    """The losses are those of a run that nobody watches, and a tracker that fails ends nothing."""
    out, notes = tmp_path / "run", tmp_path / "notes"
    arguments = ["--data", text, "--out", out, "--profile", "2..4", "--peak-flops", "1e12"]
    trackers = ["--tracker", "tensorboard", "--tracker", f"noting:{notes}"]
    done = job(
        2,
        ["-m", "moec", "run", bundle_of_two, *arguments, *trackers],
        env={"PYTHONPATH": str(package)},
    )
    assert done.rc == 0, done.output
    assert losses(out) == pytest.approx(losses(finished), abs=1e-5)
    told = [json.loads(line) for line in notes.read_text().splitlines()]
    assert told == [
        ["open", "tiny", 2, 10, 0],
        *(["step", number, loss] for number, loss in enumerate(losses(out)[:4])),
    ]
    assert "tracker noting:" in done.output
    assert "ConnectionError: the service is away" in done.output
    assert len(list((out / "tensorboard").glob("events.out.tfevents.*"))) == 1
    check_metrics(metrics(out), bundle_of_two)
    check_trace(json.loads((out / "profile" / "trace.json").read_text()))
    look(out)


def check_metrics(lines: list[dict[str, Any]], bundle: Path) -> None:
    manifest = read_manifest(bundle)
    shards = [b for b in trained_only(manifest.states()).values() if b.ranks == 2]
    scattered = sum(buffer.numel * 4 // 2 for buffer in shards)
    for line in lines:
        entropies = line["router_entropy"]
        assert set(entropies) == set(line["expert_load"]) == set(line["load_imbalance"])
        experts = {name: len(load) for name, load in line["expert_load"].items()}
        assert all(0 < entropy <= math.log(experts[name]) + 1e-6 for name, entropy in entropies.items())
        for name, load in line["expert_load"].items():
            assert line["load_imbalance"][name] == pytest.approx(max(load) * len(load) / sum(load))
        sent = line["bytes_sent"]
        assert sent["shard"]["reduce_scatter"] == scattered * manifest.training.micro_batches
        assert sent["expert"]["all_to_all"] > 0
        time_s = line["time_s"]
        parts = time_s["data"] + time_s["compute"] + time_s["collectives"]
        assert parts == pytest.approx(line["step_s"])
        assert 0 <= time_s["waiting"] <= time_s["collectives"]
        flops = manifest.flops_per_token * line["tokens"] / line["step_s"]
        assert line["flops_per_s"] == pytest.approx(flops)
        assert line["mfu"] == pytest.approx(flops / 2e12)


def check_trace(trace: dict[str, Any]) -> None:
    """Both ranks do the same steps at the same time: what is under way on an axis overlaps."""
    assert trace["otherData"]["steps"] == [2, 3, 4]
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    by_rank = [[e for e in spans if e["pid"] == rank and e["cat"] == "collective"] for rank in (0, 1)]
    assert [e["name"] for e in by_rank[0]] == [e["name"] for e in by_rank[1]]
    slack_us = max(trace["otherData"]["clock_errors_us"]) + 1
    for mine, theirs in zip(*by_rank, strict=True):
        if mine["args"]["op"] != "moec.all_to_all_start":  # it may end as soon as its own rows are there
            assert mine["ts"] <= theirs["ts"] + theirs["dur"] + slack_us
            assert theirs["ts"] <= mine["ts"] + mine["dur"] + slack_us
    assert {e["name"] for e in spans} >= {"step 2", "data", "layers_0_forward", "layers_0_backward"}


def look(out: Path) -> None:
    """`moec status` and `moec watch` of the run, which is over."""
    found = json.loads(succeed("status", out, "--json").out)
    assert (found["state"], found["step"], found["steps"], found["world"]) == ("complete", 10, 10, 2)
    assert found["loss"] == losses(out)[-1]
    assert "state       complete" in succeed("status", out).out
    picture = succeed("watch", out).out
    assert "10/10" in picture
    assert "load   layers.0.experts" in picture
    assert "sent   " in picture


def test_slips_are_told_before_anything_is_done(here: Path, text: Path, bundle: Path) -> None:
    """Also those that only the length of the run shows."""
    start = "run {bundle} --data {text} --out out"
    for options, words in (
        ("--profile 5..3", "the last step comes before the first"),
        ("--profile all", "FIRST..LAST"),
        ("--profile 10..12", "the last step of this run is 9"),
        ("--tracker nobody", "--tracker nobody: there is none of that name"),
        ("--peak-flops 0", "--peak-flops 0: a number above 0"),
        ("--peak-flops nan", "--peak-flops nan: a number above 0"),
    ):
        refused(f"{start} {options}", 1, words, bundle=bundle, text=text)
    assert moec("status", "out").code == 1
    assert moec("watch", "out").code == 1
