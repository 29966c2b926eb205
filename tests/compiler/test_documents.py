"""Separate documents: a packed sequence computes what each of its documents does alone.

Each component is compared with itself on one document a sequence, which `test_attention.py` compares with
plain formulas; whole models with one rank over several layouts, and with transformers, a document at a time.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import MixtralConfig, MixtralForCausalLM

from moec.cli.verifying import draw_batch, draw_documents, draw_weights, run_ranks, verify
from moec.compiler.build.model import Shape, build
from moec.compiler.graph import ReferenceRegion, run, value
from moec.compiler.pipeline import Compiled, CompileOptions, compile_spec
from moec.compiler.reference import reference_step
from moec.dsl.spec import Call, Component, Equation, Layer, ModelSpec, Spec, Var
from moec.runtime.transport import loopback
from small_models import batch_of, relative, small_spec, weights_of

from .test_attention import CONTEXT, GQAS, LENGTH, MLAS, WIDTH, draw

STARTS = [[0, 0, 0, 3, 3, 5, 6], [0, 1, 1, 1, 1, 1, 6]]
"""Documents of 3, 2, 1, 1 and of 1, 5, 1 tokens."""

DOCUMENTS = torch.tensor(STARTS)


def pieces(documents: Tensor) -> list[tuple[int, int, int]]:
    """(sequence, first token, end) of every document."""
    found = []
    for row, starts in enumerate(documents.tolist()):
        firsts = sorted(set(starts))
        found += [(row, a, b) for a, b in zip(firsts, [*firsts[1:], len(starts)], strict=True)]
    return found


def region_of(component: Component, sequences: int, documents: bool) -> ReferenceRegion:
    at = small_spec().model.layers[0].origin
    layer = Layer((Equation("x", False, Call("it", component, Var("x", at), at), at),), at)
    model: ModelSpec = replace(small_spec().model, width=WIDTH, context=CONTEXT, layers=(layer,))
    shape = Shape(sequences, LENGTH, torch.float64, documents=documents)
    return build(model, shape).kinds["layer_0"]


def alone(region: ReferenceRegion, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """(n, D) of one document -> (n, D), at the beginning of a sequence that nothing else is in."""
    padded = torch.cat([x, x.new_zeros(LENGTH - len(x), WIDTH)])
    facts = {name: torch.tensor(1) for name in region.inputs if name != "x"}
    found: Tensor = run(region, weights, {"x": padded, **facts})["x"]
    return found[: len(x)]


@pytest.mark.parametrize("name", [*GQAS, *(f"mla, {name}" for name in MLAS)])
def test_attention_of_a_packed_sequence_is_that_of_each_document_alone(name: str) -> None:
    """Values and gradients of input and parameters, in float64: other lengths sum in another order."""
    component = MLAS[name[5:]] if name.startswith("mla, ") else GQAS[name]
    packed, single = region_of(component, 2, True), region_of(component, 1, False)
    weights = {
        p.path: draw(*value(node).shape, seed=i).requires_grad_()
        for i, (p, node) in enumerate(zip(packed.parameters, packed.parameter_nodes(), strict=True))
    }
    x = draw(2 * LENGTH, WIDTH, seed=91).requires_grad_()
    facts = {name: torch.tensor(1) for name in packed.inputs if name != "x"} | {"documents": DOCUMENTS}
    found = run(packed, weights, {"x": x, **facts})["x"]
    rows = x.view(2, LENGTH, WIDTH)
    expected = torch.cat([alone(single, weights, rows[row, a:b]) for row, a, b in pieces(DOCUMENTS)])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    joined = run(region_of(component, 2, False), weights, {"x": x, **facts} | {"documents": None})["x"]
    assert (joined - found).abs().max() > 1e-6  # so it does make a difference
    grad, wrt = draw(*found.shape, seed=92), [x, *weights.values()]
    pairs = zip(torch.autograd.grad(found, wrt, grad), torch.autograd.grad(expected, wrt, grad), strict=True)
    for one, other in pairs:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


# --- whole models on ranks ---


def separate(variant: str, **changes: object) -> Spec:
    spec = small_spec(variant, **changes)  # type: ignore[arg-type]
    return replace(spec, train=replace(spec.train, documents="separate"))


def made(spec: Spec) -> Compiled:
    return compile_spec(spec, CompileOptions(dtype="fp64", update=False))


LAYOUTS: list[dict[str, int]] = [{}, {"shard": 2}, {"expert": 2, "shard": 2, "replicate": 2}]


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("variant", ["chunks", "latent attention", "round robin"])
def test_ranks_compute_what_one_does(variant: str, layout: dict[str, int]) -> None:
    """As `moec verify` compares them: losses, loads and all gradients against the reference graphs."""
    program = made(separate(variant, **layout))
    told = loopback.run_ranks(program.plan.mesh.world, lambda transport: verify(program, transport))
    assert max(deviation.relative for deviation in told[0]) < 1e-10


def test_documents_matter_to_a_whole_model() -> None:
    spec = separate("mixtral")
    weights, (tokens, targets) = draw_weights(spec, 1), draw_batch(spec, 1)
    documents = draw_documents(spec, 1)
    assert documents is not None
    assert (documents > 0).any()
    step = reference_step(spec.model, weights, tokens, targets, 1, documents=documents)
    joined = reference_step(spec.model, weights, tokens, targets, 1)
    one = torch.zeros_like(documents)
    same = reference_step(spec.model, weights, tokens, targets, 1, documents=one)
    assert step.losses["loss"] != pytest.approx(joined.losses["loss"], rel=1e-6)
    assert same.losses["loss"] == pytest.approx(joined.losses["loss"], rel=1e-12)


def test_programs_are_as_before_where_documents_are_joined() -> None:
    program = made(small_spec("mixtral"))
    assert not any("document" in i.op for p in program.programs.values() for i in p.instructions)
    assert "documents" not in program.programs["step"].inputs
    assert made(separate("mixtral")).programs["step"].inputs.count("documents") == 1


# --- transformers ---

VOCAB, SEQUENCE = 29, 6


def published() -> MixtralForCausalLM:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=VOCAB, hidden_size=16, intermediate_size=12, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=4, num_local_experts=4, num_experts_per_tok=2, rope_theta=100.0,
        max_position_embeddings=12, rms_norm_eps=1e-5, attn_implementation="eager",
        experts_implementation="eager", router_aux_loss_coef=0.0, output_router_logits=False,
    )  # fmt: skip
    model = MixtralForCausalLM(config).double()
    assert isinstance(model, MixtralForCausalLM)
    return model.eval()


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters of transformers' model, or their gradients, under our names."""
    names = {"embed": "model.embed_tokens.weight", "norm": "model.norm.weight", "logits": "lm_head.weight"}
    for layer in range(2):
        ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
        names |= {f"{ours}.attention.{n}": f"{theirs}.self_attn.{n}_proj.weight" for n in "qkvo"}
    found = {ours: state[theirs] for ours, theirs in names.items()}
    for layer in range(2):
        prefix, theirs = f"layers.{layer}", f"model.layers.{layer}"
        found[f"{prefix}.attention.norm"] = state[f"{theirs}.input_layernorm.weight"]
        found[f"{prefix}.experts.norm"] = state[f"{theirs}.post_attention_layernorm.weight"]
        found[f"{prefix}.experts.router"] = state[f"{theirs}.mlp.gate.weight"]
        gate_up, down = (state[f"{theirs}.mlp.experts.{n}"] for n in ("gate_up_proj", "down_proj"))
        for e in range(4):
            found[f"{prefix}.experts.expert.{e}.gate"], found[f"{prefix}.experts.expert.{e}.up"] = gate_up[
                e
            ].chunk(2)
            found[f"{prefix}.experts.expert.{e}.down"] = down[e]
    return found


def test_a_packed_batch_has_the_loss_and_gradients_of_transformers_on_each_document() -> None:
    """Two layers of Mixtral on two ranks; transformers sees one document at a time.

    Its norms, rotations and routers are in float32 whatever the model is: 1.2e-7, through two layers.
    """
    spec = separate("mixtral", shard=2, balance="none")
    model = published()
    weights = renamed({name: weight.detach() for name, weight in model.named_parameters()})
    assert weights.keys() == weights_of(spec).keys()
    tokens, _ = batch_of(spec)
    documents = draw_documents(spec, 4)
    assert documents is not None
    targets = torch.full_like(tokens, -100)
    losses = []
    for row, a, b in pieces(documents):
        targets[row, a : b - 1] = tokens[row, a + 1 : b]
        if b - a > 1:
            logits = model(tokens[row : row + 1, a:b]).logits[0, :-1]
            losses.append(F.cross_entropy(logits, tokens[row, a + 1 : b], reduction="sum"))
    expected = torch.stack(losses).sum() / (targets != -100).sum()
    expected.backward()
    gradients = renamed({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    program = made(spec)
    ranks = loopback.run_ranks(
        2, lambda transport: run_ranks(program, transport, weights, tokens, targets, documents)
    )
    assert ranks[0].losses["loss"] == pytest.approx(expected.item(), rel=1e-6)
    for name, gradient in gradients.items():
        assert relative(ranks[0].gradients[name], gradient) < 1e-5, name
