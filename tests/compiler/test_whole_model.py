"""Whole models against plain torch: both ends, a tied table, locals, and routers that look at more than x."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from moec.cli.exchange.logits import compute_logits
from moec.cli.verifying import run_ranks
from moec.compiler.build.model import Shape, build
from moec.compiler.dump import dump_plan
from moec.compiler.emit.bundle import manifest
from moec.compiler.pipeline import CompileOptions, compile_spec
from moec.compiler.reference import run_chain
from moec.dsl.parameters import count, model_parameters
from moec.dsl.spec import Spec
from moec.runtime.abi.counter_kernels import noise_key
from moec.runtime.abi.mesh import AXES
from moec.runtime.state import make_state
from moec.runtime.transport import loopback
from moec.runtime.transport.api import Transport
from moec.runtime.weights.load import load_shards
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.save import save_weights
from small_models import batch_of, relative, small_spec, weights_of

DENSE = {"layers": "1", "layer": "x += dense(norm(x))"}
LAYOUTS = [{}, {"shard": 2}, {"shard": 2, "replicate": 2}, {"shard": 3}]

Weights = dict[str, Tensor]


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def swiglu(x: Tensor, w: Weights, path: str) -> Tensor:
    gate, up, down = (w[f"{path}.{name}"] for name in ("gate", "up", "down"))
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)


def ends(w: Weights, tokens: Tensor) -> Tensor:
    """The variant "ends", with one dense layer."""
    x = 3.5 * rms(w["embed"][tokens], w["embed_norm"])
    x = x + swiglu(rms(x, w["layers.0.dense.norm"]), w, "layers.0.dense")
    logits = (rms(x, w["norm"]) @ w["embed"].T + w["logits_bias"]) / 2
    return 3 * torch.tanh(logits / 3)


def untied(w: Weights, tokens: Tensor) -> Tensor:
    x = w["embed"][tokens]
    x = x + swiglu(rms(x, w["layers.0.dense.norm"]), w, "layers.0.dense")
    return rms(x, w["norm"]) @ w["logits"].T


def with_locals(w: Weights, tokens: Tensor) -> Tensor:
    x = w["embed"][tokens]
    h = rms(x, w["layers.0.norm"])
    x = x + (0.5 * swiglu(h, w, "layers.0.dense") + x / 4)
    x = x + (h + 2 * x)
    return rms(x, w["norm"]) @ w["logits"].T


LOCALS = "h = norm(x)\n        x += 0.5 * dense(h) + x / 4\n        g = h + 2 * x\n        x = x + g"
PLAIN = {
    "ends": (ends, "ends", DENSE),
    "untied": (untied, "mixtral", DENSE),
    "locals": (with_locals, "mixtral", DENSE | {"layer": LOCALS}),
}


def compiled_step(spec: Spec, weights: Weights, tokens: Tensor, targets: Tensor) -> tuple[float, Weights]:
    """Loss and gradients of the compiled step on all ranks, which agree."""
    made = compile_spec(spec, CompileOptions(dtype="fp64", update=False))
    ranks = loopback.run_ranks(
        made.plan.mesh.world, lambda transport: run_ranks(made, transport, weights, tokens, targets)
    )
    return ranks[0].losses["loss"], ranks[-1].gradients


@pytest.mark.parametrize("degrees", LAYOUTS, ids=str)
@pytest.mark.parametrize("case", PLAIN)
def test_loss_and_gradients_are_those_of_plain_torch(case: str, degrees: dict[str, int]) -> None:
    """Float64, to the rounding of other sums. The gradient of a tied table is the sum of its two uses'."""
    plain, variant, changes = PLAIN[case]
    spec = small_spec(variant, **degrees, **changes)  # type: ignore[arg-type]
    weights, (tokens, targets) = weights_of(spec), batch_of(spec)
    leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
    expected = loss_of(plain(leaves, tokens), targets)
    expected.backward()
    loss, gradients = compiled_step(spec, weights, tokens, targets)
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    assert gradients.keys() == leaves.keys()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        assert relative(gradients[name], leaf.grad) < 1e-11, name


# --- the tied table ---


def test_a_tied_table_is_there_once() -> None:
    """One parameter, one state with one set of moments; embedding and head both gather it, and it alone."""
    spec = small_spec("ends", shard=2)
    names = [n for region, p in model_parameters(spec.model) for n in p.names(region)]
    assert names.count("embed") == 1
    assert "logits" not in names
    assert count(spec.model)[0] == sum(weight.numel() for weight in weights_of(spec).values())
    buffers = compile_spec(spec).plan.buffers
    paths = {k: {b.name: [s.path for s in b.slots] for b in buffers[k]} for k in ("embed", "head")}
    assert paths == {
        "embed": {"tied": ["embed"], "vectors": ["embed_norm"]},
        "head": {"vectors": ["norm", "logits_bias"], "tied": ["embed"]},
    }
    states = manifest(compile_spec(spec)).states()
    assert [name for name in states if "tied" in name] == ["embed/tied"]


def test_its_gradient_is_reduced_in_two_parts_and_its_update_made_once() -> None:
    programs = compile_spec(small_spec("tied", shard=2)).programs
    target = "embed_tied_gradient"
    added = [i for i in programs["micro_batch"].instructions if i.op == "moec.accumulate_"]
    assert sum(i.arguments[0].name == target for i in added) == 2  # type: ignore[union-attr]
    updates = [i for i in programs["step"].instructions if i.op == "moec.adamw_"]
    assert sum(i.arguments[1].name == target for i in updates) == 1  # type: ignore[union-attr]


def test_the_plan_says_whose_a_tied_table_is() -> None:
    compiled = compile_spec(small_spec("ends", shard=2))
    text = dump_plan(compiled.plan)
    assert "  embed/tied: 464 elements, 2 shards over shard, gradients reduce-scattered over shard" in text
    assert "  head/tied, that of embed: 464 elements" in text


def saved(spec: Spec, weights: Weights, folder: Path) -> WeightsReader:
    """Weights as the ranks of `spec` write them."""
    described = manifest(compile_spec(spec, CompileOptions(dtype="fp64")))

    def saving(transport: Transport) -> None:
        state = make_state(described, transport.rank, transport.device)
        for name, shard in state.parameters.items():
            for piece in state.pieces(name):
                part = weights[piece.name].reshape(-1)[piece.start : piece.start + piece.count]
                shard[piece.offset : piece.offset + piece.count] = part
        groups = transport.groups({a: g for a, g in described.mesh.axes().items() if a in AXES})
        save_weights(folder, state.buffers, state.parameters, state.mesh, groups, transport)

    loopback.run_ranks(described.world, saving)
    return WeightsReader(folder)


def test_a_tied_model_is_saved_and_loaded(tmp_path: Path) -> None:
    """By two ranks, and read by three: one tensor for the table."""
    weights = weights_of(small_spec("ends"))
    reader = saved(small_spec("ends", shard=2), weights, tmp_path / "w")
    assert set(reader.names()) == weights.keys()
    three = manifest(compile_spec(small_spec("ends", shard=3), CompileOptions(dtype="fp64")))
    for rank in range(3):
        state = make_state(three, rank, torch.device("cpu"))
        for name, shard in state.parameters.items():
            load_shards(reader, state.pieces(name), shard)
            for piece in state.pieces(name):
                part = weights[piece.name].reshape(-1)[piece.start : piece.start + piece.count]
                assert torch.equal(shard[piece.offset : piece.offset + piece.count], part)


# --- routers that look at more than x ---

WORD, GOLDEN = 1 << 64, 0x9E3779B97F4A7C15


def splitmix64(x: int) -> int:
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


def noise(layer: int, first: int, rows: int, width: int, eps: float, seed: int) -> Tensor:
    """Factors of a router's input, element by element; sequences of 6 tokens."""
    key = noise_key(seed, f"layers.{layer}")
    words = [splitmix64((key + (first * 6 * width + i) * GOLDEN) % WORD) for i in range(rows * width)]
    factors = [1 + eps * ((word >> 40) / 2**23 - 1) for word in words]
    return torch.tensor(factors, dtype=torch.float64).view(rows, width)


def mixture(x: Tensor, scores: Tensor, chosen: Tensor, w: Weights, path: str) -> Tensor:
    """Renormalized scores of the chosen experts times what they give, token by token."""
    out = torch.zeros_like(x)
    for t, experts in enumerate(chosen.tolist()):
        weights = scores[t, experts] / scores[t, experts].sum()
        for expert, weight in zip(experts, weights, strict=True):
            out[t] += weight * swiglu(x[t], w, f"{path}.expert.{expert}")
    return out


def chain(spec: Spec, weights: Weights, tokens: Tensor, head: str, first: int = 0, seed: int = 0) -> Weights:
    """All values of the reference graphs for one batch of whole sequences."""
    total = torch.tensor(tokens.numel())
    facts = {"sequences": torch.tensor(len(tokens)), "micro_tokens": total, "batch_tokens": total}
    facts |= {"loss_tokens": total, "first": torch.tensor(first), "targets": tokens, "tokens": tokens}
    reference = build(spec.model, Shape(*tokens.shape, torch.float64), head)
    return run_chain(reference, weights, facts, seed)


MOE = {"layer": "x += experts(norm(x))", "balance": "none"}


def test_jitter_is_of_the_routers_input_alone() -> None:
    """Experts are given x as it is; layers draw numbers of their own, for the sequences there are."""
    spec = small_spec("jitter", **MOE)
    weights, (tokens, _) = weights_of(spec), batch_of(spec)
    found = chain(spec, weights, tokens, "head", first=70, seed=3)
    x = weights["embed"][tokens].flatten(0, 1)
    for layer in range(2):
        path = f"layers.{layer}.experts"
        h = rms(x, weights[f"{path}.norm"])
        scores = (h * noise(layer, 70, len(x), 16, 0.3, 3)) @ weights[f"{path}.router"].T
        scores = scores.softmax(-1)
        x = x + mixture(h, scores, scores.topk(2).indices, weights, path)
    assert relative(found["x"], x) < 1e-12


def test_a_model_that_is_read_out_has_no_jitter() -> None:
    """Its logits are those of the model without that stage."""
    spec, plain = small_spec("jitter", **MOE), small_spec("mixtral", **MOE)
    weights, (tokens, _) = weights_of(spec), batch_of(spec)
    assert torch.equal(
        chain(spec, weights, tokens, "logits")["logits"], chain(plain, weights, tokens, "logits")["logits"]
    )
    regions = build(spec.model, Shape(5, 6, torch.float64), "logits").kinds
    assert not {"first", "noise"} & set(regions["layer_0"].inputs)


def test_layers_with_jitter_share_their_programs() -> None:
    compiled = compile_spec(small_spec("jitter"))
    assert compiled.reference.chain[1:3] == (("layers.0", "layer_0"), ("layers.1", "layer_0"))
    keys = [i for i in compiled.programs["micro_batch"].instructions if i.op == "aten.full.default"]
    numbers = {i.arguments[1] for i in keys}
    assert {noise_key(0, "layers.0"), noise_key(0, "layers.1")} <= numbers


def test_another_seed_is_another_jitter() -> None:
    """And of the programs, nothing else is another."""
    spec = small_spec("jitter")
    one, other = (
        compile_spec(replace(spec, train=replace(spec.train, seed=seed))).programs for seed in (0, 1)
    )
    assert {name for name in one if one[name] != other[name]} == {"micro_batch"}


def test_hashed_experts_are_those_of_the_token() -> None:
    """By the id alone, in every layer and place; weighted by the scores that they have there."""
    spec = small_spec("hash", **MOE)
    weights, (tokens, _) = weights_of(spec), batch_of(spec)
    found = chain(spec, weights, tokens, "logits")
    chosen = []
    for token in tokens.flatten().tolist():
        left, base = [0, 1, 2, 3], splitmix64(token * GOLDEN % WORD)
        chosen.append([left.pop((splitmix64((base + j * GOLDEN) % WORD) >> 1) % (4 - j)) for j in range(2)])
    x = weights["embed"][tokens].flatten(0, 1)
    for layer in range(2):
        path = f"layers.{layer}.experts"
        h = rms(x, weights[f"{path}.norm"])
        scores = (h @ weights[f"{path}.router"].T).sigmoid()
        x = x + mixture(h, scores, torch.tensor(chosen), weights, path)
        counts = torch.tensor(chosen).flatten().bincount(minlength=4)
        assert found[f"layers.{layer}.experts.load"].tolist() == counts.tolist()
    logits = rms(x, weights["norm"]) @ weights["logits"].T
    assert relative(found["logits"], logits) < 1e-12


def test_a_correction_changes_what_is_chosen_and_no_weight() -> None:
    spec = small_spec("correction", **MOE)
    weights, (tokens, _) = weights_of(spec), batch_of(spec)
    found = chain(spec, weights, tokens, "logits")
    x, changed = weights["embed"][tokens].flatten(0, 1), 0
    for layer in range(2):
        path = f"layers.{layer}.experts"
        h = rms(x, weights[f"{path}.norm"])
        scores = (h @ weights[f"{path}.router"].T).sigmoid()
        chosen = (scores + weights[f"{path}.correction"]).topk(2).indices
        changed += int((chosen.sort().values != scores.topk(2).indices.sort().values).sum())
        x = x + mixture(h, scores, chosen, weights, path)
    assert changed > 0
    assert relative(found["x"], x) < 1e-12


@pytest.mark.parametrize("variant", ["ends", "hash", "jitter", "correction"])
def test_logits_from_weights_on_disk(variant: str, tmp_path: Path) -> None:
    """What `moec logits` computes a region at a time is what the whole chain computes."""
    spec = small_spec(variant, replicate=2)
    weights, (tokens, _) = weights_of(spec), batch_of(spec)
    reader = saved(spec, weights, tmp_path / "w")
    found = compute_logits(spec.model, reader, tokens)
    assert relative(found.flatten(0, 1), chain(spec, weights, tokens, "logits")["logits"]) < 1e-12
