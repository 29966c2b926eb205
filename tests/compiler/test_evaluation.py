"""`evaluate`: losses and loads of the reference without training, at every layout, and nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moec.cli.verifying import _rank_batch
from moec.compiler.build.model import Shape, build
from moec.compiler.emit.bundle import manifest
from moec.compiler.pipeline import Compiled, CompileOptions, compile_spec
from moec.compiler.reference import run_chain
from moec.dsl import load_text
from moec.dsl.spec import Spec
from moec.runtime.executor import Executor
from moec.runtime.job import collective_axes, make_groups
from moec.runtime.state import TrainState, make_parameters
from moec.runtime.transport import loopback
from moec.runtime.transport.api import Transport
from small_models import batch_of, small_spec, small_text, weights_of

LAYOUTS: list[dict[str, int]] = [{}, {"expert": 2, "shard": 2, "replicate": 2}]
VARIANTS = ["mixtral", "jitter", "micro-batches", "tied", "balance of layers over the batch", "DeepSeek-V3"]
Batch = tuple[Tensor, Tensor]


def filled(compiled: Compiled, rank: int, weights: dict[str, Tensor]) -> TrainState:
    state = make_parameters(manifest(compiled), rank, torch.device("cpu"))
    for name, shard in state.parameters.items():
        for piece in state.pieces(name):
            part = weights[piece.name].reshape(-1)[piece.start : piece.start + piece.count]
            shard[piece.offset : piece.offset + piece.count] = part
    return state


def evaluated(
    compiled: Compiled, transport: Transport, weights: dict[str, Tensor], batch: Batch
) -> list[Tensor]:
    """Losses, loads, tokens that bear a loss and all tokens; the parameters are as they were."""
    mesh = compiled.plan.mesh
    axes = set[str]().union(*map(collective_axes, compiled.programs.values()))
    executor = Executor(compiled.programs, make_groups(mesh, axes, transport), transport.device)
    state = filled(compiled, transport.rank, weights)
    before = {name: shard.clone() for name, shard in state.parameters.items()}
    mine = _rank_batch(compiled, transport.rank, *batch, None)
    with torch.no_grad():
        found = executor.run("evaluate", [*mine.tensors, *state.arguments()])
    assert all(torch.equal(before[name], shard) for name, shard in state.parameters.items())
    return [torch.as_tensor(one) for one in found]


def reference(spec: Spec, weights: dict[str, Tensor], batch: Batch) -> tuple[float, list[int]]:
    """The whole batch as one micro-batch, on one device, without training."""
    tokens, targets = batch
    model = build(spec.model, Shape(*tokens.shape, torch.float64), training=False)
    facts = {
        "tokens": tokens,
        "targets": targets,
        "sequences": torch.tensor(len(tokens)),
        "loss_tokens": (targets != -100).sum(),
        "seen_tokens": torch.tensor(tokens.numel()),
        **{name: torch.tensor(tokens.numel()) for name in ("micro_tokens", "batch_tokens")},
    }
    facts |= {n: torch.zeros(e) for k in model.counted.values() for n, e in _earlier(k)}
    values = run_chain(model, weights, facts)
    loads = [values[n] for n in values if n.endswith(".load")]
    return values["loss"].item(), torch.cat(loads).tolist()


def _earlier(counted: tuple[tuple[str, int], ...]) -> list[tuple[str, int]]:
    return [(name.replace(".counted", ".earlier"), experts) for name, experts in counted]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_evaluation_is_the_reference_without_training(variant: str, layout: dict[str, int]) -> None:
    spec = small_spec(variant, **layout)  # type: ignore[arg-type]
    compiled = compile_spec(spec, CompileOptions(dtype="fp64"))
    weights, batch = weights_of(spec), batch_of(spec)
    ranks = loopback.run_ranks(
        compiled.plan.mesh.world, lambda transport: evaluated(compiled, transport, weights, batch)
    )
    loss, loads = reference(spec, weights, batch)
    for losses, counts, loss_tokens, tokens in ranks:
        assert losses[0].item() == pytest.approx(loss, rel=1e-12)
        shown = [n for n, experts in manifest(compiled).loads for _ in range(experts)]
        assert [c for c, n in zip(counts.tolist(), shown, strict=True) if n.endswith(".load")] == loads
        assert (int(loss_tokens), int(tokens)) == (int((batch[1] != -100).sum()), batch[0].numel())


def test_what_is_random_in_training_is_not_in_evaluation() -> None:
    """Only regions that are random have a program of their own; others share that of training."""
    programs = compile_spec(small_spec("jitter")).programs
    own = [name for name in programs if name.endswith(".evaluate.forward")]
    assert own == ["layer_0.evaluate.forward"]
    assert not any(i.op == "moec.jitter" for i in programs[own[0]].instructions)
    assert any(i.op == "moec.jitter" for i in programs["layer_0.forward"].instructions)
    plain = compile_spec(small_spec("mixtral")).programs
    assert not any(name.endswith(".evaluate.forward") for name in plain)


@pytest.mark.parametrize(
    "setting", ["memory.recompute=layer", "memory.offload=activations(horizon: 1)",
                "memory.gathered=keep", "memory.loss_chunk=4", "precision.compute=bf16"],
)  # fmt: skip
def test_every_way_to_train_has_its_evaluation(setting: str) -> None:
    """Against float64: float32 to 1e-5; bfloat16 keeps 8 bits, 4e-3 of each of some dozen values in a row."""
    spec = load_text(small_text("mixtral"), "small.moe", [setting])
    compiled = compile_spec(spec, CompileOptions())
    weights = {name: tensor.float() for name, tensor in weights_of(spec).items()}
    batch = batch_of(spec)
    losses, *_ = loopback.run_ranks(1, lambda t: evaluated(compiled, t, weights, batch))[0]
    loss, _ = reference(spec, {name: tensor.double() for name, tensor in weights.items()}, batch)
    assert losses[0].item() == pytest.approx(loss, rel=3e-2 if "bf16" in setting else 1e-5)
