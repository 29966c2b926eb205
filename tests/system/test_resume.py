"""A run that stops and goes on has the losses of one that did not, at any layout and number of ranks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mpi_job import job
from system.checkpointed import edited
from system.command_line import content, losses, metrics, moec, sets, status, succeed

JOB = Path(__file__).with_name("resume_job.py")

RESUMED = """\
# Everything that a state has: experts that divide by no degree but 1 and 5, biases that follow loads, random
# routing by step, moments, a learning rate that depends on the whole run.
model resumed {
    vocab   = 257
    width   = 16
    context = 32

    norm      = rms_norm(eps: 1e-5)
    attention = gqa(heads: 2, kv_heads: 1)
    corrected = moe(
        experts: 5 of swiglu(24),
        router:  sigmoid | correction_bias(update: 0.01) | top(2) | renormalize,
        balance: none,
    )
    noisy     = moe(
        experts: 5 of swiglu(24),
        router:  sparsemixer(2, jitter: 0.1),
        balance: z_loss(0.001),
    )

    layers 2 {
        x += attention(norm(x))
        x += match layer { 0 => corrected, _ => noisy }(norm(x))
    }

    logits = linear(norm(x))
}

train {
    sequence      = 16
    batch         = 12 sequences
    micro_batches = 2
    steps         = 20
    optimizer     = adamw(lr: 5e-3)
    schedule      = cosine(warmup: 5, floor: 0.1)
    checkpoint    = saved(every: 4, keep: 2)
}
"""
TWO = ("parallel.shard=2", "parallel.expert=2")
THREE = ("parallel.replicate=3", "parallel.expert=3", "train.micro_batches=1")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spec") / "resumed.moe"
    path.write_text(RESUMED)
    return path


def compiled(spec: Path, out: Path, *overrides: str, ranks: int = 1) -> Path:
    succeed("compile", spec, "-o", out, "--ranks", str(ranks), *sets(*overrides))
    return out


@pytest.fixture(scope="module")
def alone(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle for one rank. Nobody changes it."""
    return compiled(spec, tmp_path_factory.mktemp("bundles") / "one")


@pytest.fixture(scope="module")
def undisturbed(alone: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty steps on one rank. Nobody changes it."""
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    succeed("run", alone, "--data", text, "--out", out)
    return out


@pytest.fixture(scope="module")
def ten_steps(alone: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten of the twenty steps. Nobody changes it."""
    out = tmp_path_factory.mktemp("runs") / "ten"
    succeed("run", alone, "--data", text, "--out", out, "--steps", "10")
    return out


@pytest.fixture
def halfway(ten_steps: Path, tmp_path: Path) -> Path:
    """A copy of that run."""
    return Path(shutil.copytree(ten_steps, tmp_path / "halfway"))


def without_times(run: Path) -> list[dict[str, Any]]:
    """What metrics say of a run, but for how long it took."""
    kept = ("step", "loss", "aux_loss", "z_loss", "grad_norm", "lr", "tokens", "expert_load")
    return [{name: entry[name] for name in kept if name in entry} for entry in metrics(run)]


def test_twenty_steps_are_ten_and_ten(alone: Path, text: Path, undisturbed: Path, halfway: Path) -> None:
    """Bit for bit at the same layout: losses, norms, rates, loads, weights, and the last checkpoint."""
    assert [path.name for path in sorted((halfway / "checkpoints").iterdir())] == [
        "latest", "step-00000008", "step-00000010",
    ]  # fmt: skip
    told = succeed("run", alone, "--data", text, "--out", halfway, "--resume")
    assert "goes on from step 10" in told.err
    assert without_times(halfway) == without_times(undisturbed)
    assert status(halfway)["step"] == status(halfway)["steps"] == 20
    assert status(halfway)["state"] == "complete"
    assert content(halfway / "weights") == content(undisturbed / "weights")
    ends = [run / "checkpoints" / "step-00000020" for run in (halfway, undisturbed)]
    shards = [{n: d for n, d in content(end).items() if n != "manifest.json"} for end in ends]
    assert shards[0] == shards[1]


def test_a_run_that_got_further_than_its_checkpoint_does_those_steps_again(
    alone: Path, text: Path, undisturbed: Path, halfway: Path
) -> None:
    """As after a kill: the record of steps past the checkpoint is cut off, and is the same again."""
    shutil.rmtree(halfway / "checkpoints/step-00000010")
    told = succeed("run", alone, "--data", text, "--out", halfway, "--resume")
    assert "goes on from step 8" in told.err
    assert without_times(halfway) == without_times(undisturbed)


def test_resuming_a_run_that_is_done_does_nothing_again(
    alone: Path, text: Path, undisturbed: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(undisturbed, tmp_path / "run"))
    succeed("run", alone, "--data", text, "--out", run, "--resume")
    assert without_times(run) == without_times(undisturbed)
    assert content(run / "weights") == content(undisturbed / "weights")
    assert status(run)["state"] == "complete"


def test_a_run_is_prolonged_by_a_bundle_of_more_steps(alone: Path, text: Path, tmp_path: Path) -> None:
    """With a constant rate, 6 steps and 4 more are 10."""
    constant = {
        "schedule": {"kind": "constant", "warmup": 0, "floor": 1.0},
        "checkpoint": {"every": 50, "keep": 2},
    }
    short, long = (
        edited(alone, tmp_path / f"b{steps}", {"train.steps": str(steps)}, steps=steps, **constant)
        for steps in (6, 10)
    )
    succeed("run", long, "--data", text, "--out", tmp_path / "whole")
    succeed("run", short, "--data", text, "--out", tmp_path / "run")
    assert status(tmp_path / "run")["steps"] == 6
    succeed("run", long, "--data", text, "--out", tmp_path / "run", "--resume")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_resume_where_there_is_nothing_starts_afresh_and_moves_what_was_there(
    alone: Path, text: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    for first in (True, False):
        told = succeed("run", alone, "--data", text, "--out", out, "--steps", "2", "--resume")
        assert ("starts from its first step" in told.err) == first
    assert losses(out) == losses(undisturbed)[:2]
    shutil.rmtree(out / "checkpoints")
    told = succeed("run", alone, "--data", text, "--out", out, "--steps", "3", "--resume")
    assert "starts from its first step" in told.err
    assert len(losses(out)) == 3
    assert len([*out.glob("previous-*")]) == 1


def test_a_fresh_run_moves_checkpoints_of_another_aside(alone: Path, text: Path, halfway: Path) -> None:
    succeed("run", alone, "--data", text, "--out", halfway, "--steps", "2")
    (aside,) = halfway.glob("previous-*")
    assert (aside / "checkpoints/step-00000010/manifest.json").is_file()
    assert {path.name for path in (halfway / "checkpoints").iterdir()} == {"latest", "step-00000002"}


def test_another_model_data_or_seed_is_refused_and_nothing_is_touched(
    alone: Path, text: Path, halfway: Path, tmp_path: Path
) -> None:
    before = content(halfway)
    wide = edited(alone, tmp_path / "wide", {"width": "24"})
    seed = edited(alone, tmp_path / "seed", {"train.seed": "3"}, seed=3)
    other = tmp_path / "other.txt"
    other.write_text("something else altogether. " * 100)
    for bundle, data, words in (
        (wide, text, "is of another model: width: 16 there, 24 here"),
        (seed, text, "samples in another order: train.seed: 0 there, 3 here"),
        (alone, other, "is of a run on other data"),
    ):
        told = moec("run", bundle, "--data", data, "--out", halfway, "--resume")
        assert told.code == 1
        assert words in told.text, told.err
        assert content(halfway) == before


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(
    alone: Path, text: Path, undisturbed: Path, halfway: Path
) -> None:
    """With --strict-resume the run ends with 76, and has that for its verdict."""
    shard = halfway / "checkpoints/step-00000010/exp_avg-00000.safetensors"
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 16
    shard.write_bytes(damaged)
    told = moec("run", alone, "--data", text, "--out", halfway, "--resume", "--strict-resume")
    assert told.code == status(halfway)["exit_code"] == 76
    assert str(shard) in told.err
    assert str(shard) in status(halfway)["reason"]
    told = succeed("run", alone, "--data", text, "--out", halfway, "--resume")
    assert str(shard) in told.err
    assert "goes on from step 8" in told.err
    assert without_times(halfway) == without_times(undisturbed)
    assert len([*(halfway / "checkpoints").glob("step-00000010.damaged-*")]) == 1


def test_strict_resume_goes_with_resume(alone: Path, text: Path, tmp_path: Path) -> None:
    told = moec("run", alone, "--data", text, "--out", tmp_path / "x", "--strict-resume")
    assert told.code == 1
    assert "goes with --resume" in told.text


def distance(run: Path, other: Path) -> float:
    """The largest difference between the losses of two runs, step by step, as far as `run` has come."""
    pairs = zip(losses(run), losses(other), strict=False)
    return max(abs(one - two) for one, two in pairs)


@pytest.mark.mpi
@pytest.mark.timeout(600)
def test_a_run_goes_on_at_other_degrees_and_numbers_of_ranks(
    spec: Path, alone: Path, text: Path, undisturbed: Path, halfway: Path, tmp_path: Path
) -> None:
    """1 -> 2 -> 3 ranks, expert and data degrees and micro-batches changed: 1e-5; 2 and 2 bit for bit."""
    two = compiled(spec, tmp_path / "two", *TWO, ranks=2)
    three = compiled(spec, tmp_path / "three", *THREE, "train.steps=20", ranks=3)
    common = {"bundle": str(two), "data": str(text)}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps([
        common | {"out": str(tmp_path / "whole"), "steps": 9},
        common | {"out": str(tmp_path / "parts"), "steps": 5},
        common | {"out": str(tmp_path / "parts"), "steps": 9, "resume": True},
        common | {"out": str(halfway), "steps": 13, "resume": True},
    ]))  # fmt: skip
    done = job(2, [JOB, plan], timeout_s=280)
    assert done.rc == 0, done.output
    assert without_times(tmp_path / "parts") == without_times(tmp_path / "whole")
    files = {path.name: load_file(path) for path in (tmp_path / "whole/weights").glob("*.safetensors")}
    for name, tensors in files.items():
        again = load_file(tmp_path / "parts/weights" / name)
        assert all(bool((again[key] == tensor).all()) for key, tensor in tensors.items())
    assert distance(tmp_path / "whole", undisturbed) < 1e-5
    done = job(3, ["-m", "moec", "run", three, "--data", text, "--out", halfway, "--resume"], timeout_s=280)
    assert done.rc == 0, done.output
    assert "goes on from step 13" in done.output
    assert len(losses(halfway)) == 20
    assert distance(halfway, undisturbed) < 1e-5
    assert status(halfway)["world"] == 3
