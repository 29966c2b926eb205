"""Under real mpirun: every way of tokens to experts trains the same, SageMaker's two Mixtral jobs learn, and
weights that only rank 0 can see reach all ranks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from moec import models
from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import CompileOptions, compile_spec
from moec.dsl import load
from moec.runtime.mpirun import command
from moec.runtime.weights.reader import WeightsReader
from mpi_job import JobResult, job, run

from .command_line import moec, sets, succeed

SCRIPT = Path(__file__).with_name("layout_job.py")
JOBS = Path(__file__).parents[2] / "docs" / "smp"
WAYS = ("all_to_all", "all_gather", "all_to_all(shuffle: true)", "all_gather(shuffle: true)")
DEGREES = ("shard=2", "replicate=2", "expert=4")
SMALL = (
    "vocab=257", "width=32", "layers=2", "attention.heads=4", "attention.kv_heads=2", "attention.head_dim=8",
    "train.sequence=32",
)  # fmt: skip
MODEL = (
    *SMALL, "experts=moe(experts: 6 of swiglu(48), router: jitter(0.1) | softmax | sinkhorn | top(2), "
    "balance: aux_loss(0.01) + z_loss(0.001))", "train.batch=6 sequences", "train.micro_batches=2",
    "train.steps=5",
)  # fmt: skip
"""Six experts on four ranks: one has none."""
SMP = (
    *SMALL, "experts.experts.width=48", "parallel.shard=4",
    "memory.offload=activations(horizon: 2, least: 0B)",
    "train.batch=8 sequences", "train.steps=40", "train.optimizer.lr=5e-3", "train.schedule.warmup=4",
)  # fmt: skip
STEPS = 40


def _entry(folder: Path, spec: str, overrides: tuple[str, ...], **work: object) -> dict[str, object]:
    """A bundle, and what the job does with it: a case is computed in float64."""
    folder.mkdir(parents=True)
    options = CompileOptions(dtype="fp64", update=False) if "case" in work else CompileOptions()
    save(compile_spec(load(spec, list(overrides), models.read), options), folder / "bundle")
    return {"bundle": str(folder / "bundle"), "out": str(folder), **work}


def _folder(results: Path, way: str) -> Path:
    return results / way.replace(": ", "-")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of it in one job of four ranks."""
    folder, plan = tmp_path_factory.mktemp("dispatch"), []
    for way in WAYS:
        parallel = tuple(f"parallel.{degree}" for degree in (*DEGREES, f"dispatch={way}"))
        plan.append(_entry(_folder(folder, way), "mixtral_8x7b", (*MODEL, *parallel), case="short batch"))
    for path in sorted(JOBS.glob("*.moe")):
        plan.append(_entry(folder / path.stem, str(path), SMP, steps=STEPS))
    (folder / "plan.json").write_text(json.dumps(plan))
    done = job(4, [SCRIPT, folder / "plan.json", "mpi"], timeout_s=240)
    assert done.rc == 0, done.output
    return folder


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    reader = WeightsReader(folder)
    return {n: reader.read(n, 0, torch.Size(reader.shape(n)).numel()) for n in sorted(reader.names())}


@pytest.mark.mpi
@pytest.mark.parametrize("way", WAYS[1:])
def test_losses_and_gradients_are_those_of_all_to_all(results: Path, way: str) -> None:
    """In one job, in float64, of a batch of one sequence for four ranks."""
    ours, plain = (_folder(results, one) for one in (way, WAYS[0]))
    found, expected = (json.loads((f / "result.json").read_text()) for f in (ours, plain))
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-12)
    assert found["loads"] == expected["loads"]
    assert found["tokens"] == expected["tokens"] == 32
    gradients, theirs = (_tensors(f / "gradients") for f in (ours, plain))
    assert gradients.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-10 * gradient.abs().max(), name


@pytest.mark.mpi
@pytest.mark.parametrize("name", [path.stem for path in sorted(JOBS.glob("*.moe"))])
def test_the_mixtral_jobs_learn(results: Path, name: str) -> None:
    """With their sinkhorn router, z-loss, bf16, recomputed layers and offloading, on small sizes."""
    losses = [step["loss"] for step in json.loads((results / name / "result.json").read_text())["losses"]]
    assert len(losses) == STEPS
    assert sum(losses[-5:]) / 5 < losses[0] - 1.2


@pytest.mark.parametrize(
    ("name", "ranks", "expert_shard"),
    [
        ("mixtral_all_to_all", 32, 16),
        ("mixtral_shuffled", 64, 32),
        pytest.param("mixtral_all_to_all", 64, 32, marks=pytest.mark.slow),
        pytest.param("mixtral_shuffled", 32, 16, marks=pytest.mark.slow),
    ],
)
def test_the_mixtral_jobs_compile_for_their_shards(name: str, ranks: int, expert_shard: int) -> None:
    """Whole, for 32 ranks and for 64, of which each half of the experts may be cut over 32."""
    overrides = [f"parallel.expert_shard={expert_shard}"] if ranks == 64 else []
    spec = load(str(JOBS / f"{name}.moe"), overrides, models.read)
    plan = compile_spec(spec, CompileOptions(ranks=ranks)).plan
    assert (plan.mesh.world, plan.mesh.expert, plan.mesh.shard) == (ranks, 2, 32)
    sizes = {buffer.name: buffer.shard_numel for buffer in plan.buffers["layer_0"]}
    assert sizes["expert_matrices"] == 8 * 3 * 4096 * 14336 // 2 // expert_shard


# --- weights on the disk of rank 0 ---


def _train(folder: Path, out: str, first: list[str], second: list[str]) -> JobResult:
    """Two ranks with options of their own."""
    rank = [sys.executable, "-m", "moec", "run", "bundle", "--data", "text.txt", "--out", out, "--steps", "2"]
    line, environment = command(1, [*rank, *first], sys.executable)
    line = [*line, ":", "-n", "1", *rank, *second]
    script = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', str(folder), *line]
    return run(script, environment | {"OMP_NUM_THREADS": "1"}, timeout_s=120)


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.mpi
def test_weights_that_only_rank_0_sees(results: Path, tmp_path: Path) -> None:
    """The same run as from weights that all see, bit for bit; without the option, it says what to do."""
    weights = results / "mixtral_all_to_all" / "final"
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question. " * 200)
    overrides = sets(*SMP, "parallel.shard=2")
    succeed("compile", JOBS / "mixtral_shuffled.moe", "-o", tmp_path / "bundle", *overrides)
    here, nowhere = ["--init", str(weights)], ["--init", str(tmp_path / "nowhere")]
    alone = ["--init-from", "rank0"]
    seen = _train(tmp_path, "seen", here, here)
    assert seen.rc == 0, seen.output
    sent = _train(tmp_path, "sent", [*here, *alone], [*nowhere, *alone])
    assert sent.rc == 0, sent.output
    assert _losses(tmp_path / "sent") == _losses(tmp_path / "seen")
    ours, theirs = (_tensors(tmp_path / out / "weights") for out in ("sent", "seen"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    told = moec("run", tmp_path / "bundle", "--data", tmp_path / "text.txt", *alone)
    assert told.code == 1
    assert "--init-from goes with --init" in told.text
    refused = _train(tmp_path, "refused", here, nowhere)
    assert refused.rc == 1
    message = " ".join(refused.output.split())
    assert "rank 0 has this folder, rank 1 not: give --init-from rank0" in message
