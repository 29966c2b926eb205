"""Meaning does not depend on layout: every degree computes what one rank computes, under real mpirun."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from moec import models
from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import CompileOptions, compile_spec
from moec.dsl import load, load_text
from moec.runtime.abi.bundle import STATE_PARTS
from moec.runtime.weights.reader import WeightsReader
from mpi_job import job

SCRIPT = Path(__file__).with_name("layout_job.py")
STEPS = 20

MODEL = [
    "vocab=257", "width=32", "layers=2", "attention.heads=4", "attention.kv_heads=2",
    "experts.experts.width=48", "train.sequence=32", "train.batch=6 sequences",
    "train.micro_batches=2", "train.optimizer.lr=3e-3",
    "train.schedule=cosine(warmup: 4, floor: 0.1)", "experts.balance=aux_loss(0.01) + z_loss(0.001)",
]  # fmt: skip

CASES = {
    "few tokens": ["train.sequence=3", "train.batch=1 sequences", "train.micro_batches=1"],
    "idle expert": [],
    "short batch": [],
    "one expert": ["experts.router.top=1"],
}
"""Fewer tokens than experts; an expert without a token; one sequence instead of six; one expert for all."""


WHOLE = """\
model whole {
    vocab   = 257
    width   = 32
    context = 32
    init    = normal(std: 0.05)

    norm      = rms_norm(eps: 1e-5)
    attention = gqa(heads: 4, kv_heads: 2, head_dim: 8)
    hashed    = moe(experts: 8 of swiglu(24), router: sigmoid | hash(2))
    experts   = moe(
        experts:  7 of swiglu(24, bias: true),
        identity: 2,
        router:   jitter(0.1) | sigmoid | correction_bias(update: 0.01) | top(2) | renormalize | capacity(1),
        balance:  sequence_aux_loss(0.01),
    )

    x = 3.5 * norm(embed(tokens))

    layers 3 {
        h = norm(x)
        x += 0.5 * attention(h) + match layer { 0 => hashed, _ => experts }(h) / 3
    }

    logits = softcap(linear(norm(x), tied: true, bias: true) / 2, 30)
}

train {
    sequence      = 32
    batch         = 6 sequences
    micro_batches = 2
    steps         = 6
    optimizer     = adamw(lr: 1e-2)
}
"""
"""What is not the business of one region: a tied table, a correction by the load of the whole batch, jitter;
and choices that are not sent to experts, of which the last ranks have fewer."""


@dataclass(frozen=True)
class Layout:
    shard: int
    replicate: int
    expert: int
    expert_shard: int | None = None

    @property
    def world(self) -> int:
        return self.shard * self.replicate

    @property
    def sets(self) -> list[str]:
        degrees = {"shard": self.shard, "replicate": self.replicate, "expert": self.expert}
        if self.expert_shard is not None:
            degrees["expert_shard"] = self.expert_shard
        return [f"parallel.{name}={degree}" for name, degree in degrees.items()]

    def __str__(self) -> str:
        degrees = (self.shard, self.replicate, self.expert, self.expert_shard)
        return "-".join(str(degree) for degree in degrees if degree is not None)


ONE = Layout(1, 1, 1)
LAYOUTS = [
    Layout(1, 2, 2), Layout(2, 1, 1), Layout(2, 1, 2), Layout(4, 1, 4), Layout(1, 4, 2), Layout(2, 2, 2),
    Layout(2, 2, 4), Layout(2, 2, 2, 2),
]  # fmt: skip
ON_GLOO = [Layout(2, 1, 2), Layout(1, 2, 2), Layout(2, 2, 2, 2)]


def _entries(folder: Path, layout: Layout, transport: str) -> list[dict[str, object]]:
    """Compile all bundles of a layout and return the plan for its ranks."""
    entries = []
    for case, sets in {"train": [], **CASES}.items():
        here = folder / transport / str(layout) / case.replace(" ", "-")
        here.mkdir(parents=True)
        spec = load("tiny", [*MODEL, *sets, *layout.sets], models.read)
        save(compile_spec(spec, CompileOptions(update=case == "train")), here / "bundle")
        work = {"steps": STEPS} if case == "train" else {"case": case}
        entries.append({"bundle": str(here / "bundle"), "out": str(here), **work})
    return [*entries, _whole(folder / transport / str(layout) / "whole", layout)]


def _whole(here: Path, layout: Layout) -> dict[str, object]:
    """In float64, so that no router is of two minds on two layouts."""
    here.mkdir()
    spec = load_text(WHOLE, "whole.moe", layout.sets)
    save(compile_spec(spec, CompileOptions(dtype="fp64")), here / "bundle")
    return {"bundle": str(here / "bundle"), "out": str(here), "steps": spec.train.steps}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every layout run on mpi, some on gloo: one mpirun a world size and transport."""
    folder = tmp_path_factory.mktemp("layouts")
    starts = [("self", [ONE]), ("mpi", LAYOUTS), ("gloo", ON_GLOO)]
    for transport, layouts in starts:
        for world in sorted({layout.world for layout in layouts}):
            here = [layout for layout in layouts if layout.world == world]
            plan = [entry for layout in here for entry in _entries(folder, layout, transport)]
            path = folder / f"{transport}-{world}.json"
            path.write_text(json.dumps(plan))
            argv = [SCRIPT, path, transport]
            if transport == "self":
                subprocess.run([sys.executable, *argv], check=True, timeout=120)
            else:
                done = job(world, argv, timeout_s=240)
                assert done.rc == 0, done.output
    return folder


WAYS = [("mpi", layout) for layout in LAYOUTS] + [("gloo", layout) for layout in ON_GLOO]
ways = pytest.mark.parametrize(("transport", "layout"), WAYS, ids=[f"{t}-{x}" for t, x in WAYS])


def _result(results: Path, transport: str, layout: Layout, case: str) -> dict[str, object]:
    folder = results / transport / str(layout) / case.replace(" ", "-")
    found = json.loads((folder / "result.json").read_text())
    assert isinstance(found, dict)
    return found


def _tensors(results: Path, transport: str, layout: Layout, case: str, what: str) -> dict[str, torch.Tensor]:
    reader = WeightsReader(results / transport / str(layout) / case.replace(" ", "-") / what)
    return {
        name: reader.read(name, 0, torch.Size(reader.shape(name)).numel()) for name in sorted(reader.names())
    }


@pytest.mark.mpi
@ways
def test_initial_weights_are_equal_bit_for_bit(results: Path, transport: str, layout: Layout) -> None:
    ours, one = (_tensors(results, t, x, "train", "initial") for t, x in ((transport, layout), ("self", ONE)))

    assert ours.keys() == one.keys()
    assert all(torch.equal(ours[name], one[name]) for name in one)


@pytest.mark.mpi
@ways
def test_batches_are_the_same(results: Path, transport: str, layout: Layout) -> None:
    ours, one = (_result(results, t, x, "train") for t, x in ((transport, layout), ("self", ONE)))

    assert ours["batches"] == one["batches"]


@pytest.mark.mpi
@ways
def test_losses_of_twenty_steps_are_equal(results: Path, transport: str, layout: Layout) -> None:
    ours, one = (_result(results, t, x, "train")["losses"] for t, x in ((transport, layout), ("self", ONE)))

    assert len(ours) == len(one) == STEPS  # type: ignore[arg-type]
    for step, (here, there) in enumerate(zip(ours, one, strict=True)):  # type: ignore[call-overload]
        for name, loss in there.items():
            assert abs(here[name] - loss) <= 1e-4 * max(1.0, abs(loss)), (step, name)
    assert one[-1]["loss"] < one[0]["loss"] - 0.5  # type: ignore[index]


@pytest.mark.mpi
@pytest.mark.parametrize("case", CASES)
@ways
def test_loss_and_every_gradient_are_equal(results: Path, transport: str, layout: Layout, case: str) -> None:
    """Within 1e-5 of the largest element in fp32; `moec verify` shows 1e-10 in fp64."""
    ours, one = (_result(results, t, x, case) for t, x in ((transport, layout), ("self", ONE)))
    gradients, expected = (
        _tensors(results, t, x, case, "gradients") for t, x in ((transport, layout), ("self", ONE))
    )

    for name, loss in one["losses"].items():  # type: ignore[attr-defined]
        assert abs(ours["losses"][name] - loss) <= 1e-5 * abs(loss), name  # type: ignore[index]
    assert ours["loads"] == one["loads"]
    assert ours["tokens"] == one["tokens"]
    assert ours["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-5)
    for name, gradient in expected.items():
        assert (gradients[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max(), name


@pytest.mark.mpi
@ways
def test_a_whole_model_trains_the_same(results: Path, transport: str, layout: Layout) -> None:
    """Losses to the rounding of float64 over six steps, weights too; corrections bit for bit."""
    ours, one = (_result(results, t, x, "whole")["losses"] for t, x in ((transport, layout), ("self", ONE)))
    for here, there in zip(ours, one, strict=True):  # type: ignore[call-overload]
        assert here == pytest.approx(there, rel=1e-9)
    weights, expected = (
        _tensors(results, t, x, "whole", "final") for t, x in ((transport, layout), ("self", ONE))
    )
    assert weights.keys() == expected.keys()
    for name, weight in expected.items():
        assert (weights[name] - weight).abs().max() <= 1e-6 * weight.abs().max(), name
        if name.endswith("correction"):
            assert torch.equal(weights[name], weight)
            assert weight.abs().max() > 0


@pytest.mark.mpi
def test_cases_are_what_they_say(results: Path) -> None:
    """The hand-made batches do leave an expert idle, and do put all tokens on one."""
    idle, crowded, few, short = (
        _result(results, "self", ONE, c) for c in ("idle expert", "one expert", "few tokens", "short batch")
    )
    experts = 8

    assert all(load == 0 for load in idle["loads"][3::experts])  # type: ignore[index]
    assert all(load == crowded["tokens"] for load in crowded["loads"][::experts])  # type: ignore[index]
    assert few["tokens"] == 3
    assert short["tokens"] == 32


CUT_EVERYWHERE = [Layout(2, 1, 1), Layout(2, 1, 2), Layout(4, 1, 4)]
"""Layouts in which dense parameters and experts are both cut over all ranks, and nothing is repeated."""


@pytest.mark.mpi
@pytest.mark.parametrize("layout", CUT_EVERYWHERE, ids=str)
def test_state_bytes_are_those_of_the_shards(results: Path, layout: Layout) -> None:
    """A rank holds its share of one rank's bytes of every part, plus padding to whole shards."""
    ours, one = (_result(results, t, x, "train")["bytes"] for t, x in (("mpi", layout), ("self", ONE)))

    assert ours.keys() == one.keys() == set(STATE_PARTS)  # type: ignore[attr-defined]
    for part, size in one.items():  # type: ignore[attr-defined]
        assert size / layout.world <= ours[part] <= size / layout.world * 1.01  # type: ignore[index]
