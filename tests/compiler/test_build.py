"""Reference graphs: what a text says, at the level of its paper, and what each router computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moec.compiler.dump import dump_plan, dump_region
from moec.compiler.errors import CompileError
from moec.compiler.graph import ORIGIN, VAL, ReferenceRegion, origin, run, value
from moec.compiler.numerics import numerics_of
from moec.compiler.plan.plan import make_plan
from moec.dsl import load_text
from moec.dsl.spec import AuxLoss, Call, Layer, ModelSpec, Moe, PrecisionSpec, Spec, ZLoss
from small_models import SEQUENCE, VARIANTS, small_spec, small_text, weights_of

from .stages import EIGHT_RANKS, reference

GOLDENS = Path(__file__).parent / "goldens"
FP64 = numerics_of(PrecisionSpec(), "fp64")
Golden = Callable[[str, Path], None]


@pytest.mark.parametrize("variant", ["mixtral", "gated", "z"])
def test_reference_graphs(variant: str, golden: Golden) -> None:
    """A small Mixtral; a layer of Qwen2, with biases and a gated shared expert; both auxiliary losses."""
    kinds = reference(small_spec(variant)).kinds
    golden("\n\n".join(map(dump_region, kinds.values())) + "\n", GOLDENS / f"reference_{variant}.txt")


@pytest.mark.parametrize("variant", ["gated", "uneven experts", "ends", "correction"])
def test_plans(variant: str, golden: Golden) -> None:
    """What every rank holds, and how gradients come together."""
    spec = small_spec(variant)
    text = dump_plan(make_plan(reference(spec), EIGHT_RANKS, spec, FP64))
    golden(text + "\n", GOLDENS / f"plan_{variant.replace(' ', '_')}.txt")


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_node_has_a_shape_and_a_line(variant: str) -> None:
    for region in reference(small_spec(variant)).kinds.values():
        for node in region.nodes():
            assert VAL in node.meta
            if node.op != "output":
                assert origin(node).file == "small.moe"
                assert origin(node).line > 0
                assert ORIGIN in node.meta


def test_lines_are_those_of_what_a_node_computes() -> None:
    spec = small_spec("z")
    found = {}
    for node in reference(spec).kinds["layer_0"].nodes():
        if node.op == "call_function":
            found[getattr(node.target, "__name__", "")] = origin(node).text
    assert found["attention"].startswith("attention = gqa(")
    assert found["softmax"].startswith("router:")
    assert found["square_logsumexp_sum"].startswith("balance:")
    assert found["gated"].startswith("experts: 4 of swiglu(12)")
    assert found["add"] == "x += experts(norm(x))"


def test_layers_of_one_kind_are_built_once() -> None:
    model = reference(small_spec("dense layers", layers="5"))
    assert list(model.kinds) == ["embed", "layer_0", "layer_1", "head"]
    assert model.chain == (
        ("embed", "embed"),
        ("layers.0", "layer_0"),
        ("layers.1", "layer_1"),
        ("layers.2", "layer_0"),
        ("layers.3", "layer_0"),
        ("layers.4", "layer_0"),
        ("head", "head"),
    )
    assert model.loads == {"layer_0": (("experts.load", 4),), "layer_1": ()}


def test_only_what_the_balance_terms_need_is_carried() -> None:
    carried = {
        variant: reference(small_spec(variant)).kinds["embed"].outputs[1:]
        for variant in ("mixtral", "per layer", "z", "z alone", "no balance")
    }
    assert carried == {
        "mixtral": ("choices", "probabilities"),
        "per layer": ("aux",),
        "z": ("choices", "probabilities", "z"),
        "z alone": ("z",),
        "no balance": (),
    }


# --- what routers compute, by loops ---


ROUTERS: dict[str, Callable[[Tensor], tuple[list[int], list[float]]]] = {}
"""Text -> what it means: logits (E,) of one token to chosen experts and their weights."""


def router(text: str) -> Callable[[Callable[[Tensor], tuple[list[int], list[float]]]], None]:
    return lambda meaning: ROUTERS.update({text: meaning})


@router("softmax | top(2) | renormalize")
def _(logits: Tensor) -> tuple[list[int], list[float]]:
    p = (logits.exp() / logits.exp().sum()).tolist()
    best = sorted(range(len(p)), key=lambda e: -p[e])[:2]
    return best, [p[e] / sum(p[b] for b in best) for e in best]


@router("softmax | top(3)")
def _(logits: Tensor) -> tuple[list[int], list[float]]:
    p = (logits.exp() / logits.exp().sum()).tolist()
    best = sorted(range(len(p)), key=lambda e: -p[e])[:3]
    return best, [p[e] for e in best]


@router("top(3) | softmax")
def _(logits: Tensor) -> tuple[list[int], list[float]]:
    best = sorted(range(len(logits)), key=lambda e: -logits[e].item())[:3]
    powers = [logits[e].exp().item() for e in best]
    return best, [power / sum(powers) for power in powers]


@router("softmax | top(1)")
def _(logits: Tensor) -> tuple[list[int], list[float]]:
    p = (logits.exp() / logits.exp().sum()).tolist()
    return [p.index(max(p))], [max(p)]


@pytest.mark.parametrize("text", ROUTERS)
def test_a_router_means_what_its_pipeline_says(text: str) -> None:
    """A layer whose attention is switched off, with a shared expert, against a loop over tokens."""
    spec = small_spec(
        router=text, moe="shared: 1 of swiglu(8), shared_gate: true,", layers="1", balance="none"
    )
    region = reference(spec, sequences=2).kinds["layer_0"]
    w = without_attention(spec, "layers.0.")
    x = torch.randn(2 * SEQUENCE, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    tokens = torch.tensor(2 * SEQUENCE)
    facts = {"sequences": torch.tensor(2), "micro_tokens": tokens, "batch_tokens": tokens}
    found = run(region, stored(region, w), {"x": x, **facts})

    def ffn(row: Tensor, name: str) -> Tensor:
        gate, up, down = (w[f"{name}.{part}"] for part in ("gate", "up", "down"))
        hidden = gate @ row
        return down @ (hidden / (1 + (-hidden).exp()) * (up @ row))

    load = [0] * 4
    for token, row in enumerate(x):
        normed = row / (row.square().mean() + 1e-5).sqrt() * w["experts.norm"]
        chosen, weights = ROUTERS[text](w["experts.router"] @ normed)
        expected = row + ffn(normed, "experts.shared") * torch.sigmoid(w["experts.shared_gate"] @ normed)
        for expert, weight in zip(chosen, weights, strict=True):
            expected = expected + weight * ffn(normed, f"experts.expert.{expert}")
            load[expert] += 1
        torch.testing.assert_close(found["x"][token], expected, rtol=1e-11, atol=1e-11)
    assert found["experts.load"].tolist() == load


def without_attention(spec: Spec, layer: str) -> dict[str, Tensor]:
    """The weights of one layer, by path; attention gives zero."""
    weights = {n.removeprefix(layer): w for n, w in weights_of(spec).items() if n.startswith(layer)}
    return weights | {"attention.o": torch.zeros_like(weights["attention.o"])}


def stored(region: ReferenceRegion, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As a region takes them: experts stacked."""
    return {
        p.path: torch.stack([weights[name] for name in p.names("")]) if p.experts else weights[p.path]
        for p in region.parameters
    }


@pytest.mark.parametrize("per", ["model", "layer"])
def test_balance_losses_by_their_formulas(per: str) -> None:
    """E * sum_e f_e p_e over all layers or of each, and the mean of logsumexp^2; padding does not count."""
    spec = small_spec(balance=f"aux_loss(0.02, per: {per}) + z_loss(0.01)", moe="", layers="2")
    model = reference(spec, sequences=3)
    generator = torch.Generator().manual_seed(2)
    real, counts, sums, losses, z = 2 * SEQUENCE, torch.zeros(4), torch.zeros(4), 0.0, 0.0
    chain: dict[str, Tensor] = {
        name: torch.zeros(shape, dtype=dtype)
        for name, (shape, dtype) in model.statistics.carried(torch.float64).items()
    }
    for layer in ("layers.0", "layers.1"):
        region = model.kinds["layer_0"]
        x = torch.randn(3 * SEQUENCE, 16, dtype=torch.float64, generator=generator)
        w = without_attention(spec, f"{layer}.")
        facts = {"sequences": 2, "micro_tokens": real, "batch_tokens": 2 * real}
        given = {"x": x, **chain, **{name: torch.tensor(fact) for name, fact in facts.items()}}
        chain = run(region, stored(region, w), given)
        normed = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["experts.norm"]
        logits = (normed @ w["experts.router"].T)[:real]
        p = logits.exp() / logits.exp().sum(1, keepdim=True)
        best = p.argsort(1, descending=True)[:, :2]
        f = torch.stack([(best == e).sum() for e in range(4)]).double()
        counts, sums = counts + f, sums + p.sum(0)
        losses += (4 * (f / real * p.sum(0) / (2 * real)).sum()).item()
        z += logits.exp().sum(1).log().square().sum().item()
        chain.pop("experts.load")
        chain.pop("x")
    if per == "model":
        assert chain["choices"].tolist() == counts.tolist()
        torch.testing.assert_close(chain["probabilities"], sums)
    else:
        assert chain["aux"].item() == pytest.approx(losses, rel=1e-12)
    assert chain["z"].item() == pytest.approx(z, rel=1e-12)


# --- what cannot be built ---


def with_moe(model: ModelSpec, layer: int, **changes: Any) -> ModelSpec:
    """The model with the MoE of one layer changed."""
    *first, last = model.layers[layer].equations
    call = last.value
    assert isinstance(call, Call)
    assert isinstance(call.component, Moe)
    moe = replace(call.component, **changes)
    changed = Layer((*first, replace(last, value=replace(call, component=moe))))
    return replace(model, layers=(*model.layers[:layer], changed, *model.layers[layer + 1 :]))


def test_balance_terms_that_differ_between_layers_are_not_supported_yet() -> None:
    spec = small_spec("z")
    for terms in ((AuxLoss(0.5), ZLoss(0.01)), (AuxLoss(0.02), ZLoss(0.5)), (AuxLoss(0.02, "layer"),)):
        model = with_moe(spec.model, 1, balance=terms)
        with pytest.raises(CompileError, match="not supported yet: balance terms that differ between layers"):
            reference(replace(spec, model=model))


def test_layers_without_balance_are_left_out_of_the_pool() -> None:
    spec = small_spec()
    model = reference(replace(spec, model=with_moe(spec.model, 1, balance=())))
    assert model.statistics.pooled_layers == 1


def test_pooled_layers_need_one_number_of_experts() -> None:
    spec = small_spec()
    model = with_moe(spec.model, 1, experts=6)
    with pytest.raises(CompileError, match="they need the same number of experts") as error:
        reference(replace(spec, model=model))
    assert error.value.advice == "per: layer"
    assert str(error.value).startswith("small.moe:")


def test_two_texts_that_say_the_same_build_the_same_graphs() -> None:
    """Where something is written does not change what is built, nor how many kinds there are."""
    text = small_text().replace("model small", "# A comment.\n\nmodel small")
    one, other = small_spec(), load_text(text, "small.moe")
    shown = [
        [
            line.partition("#")[0]
            for region in reference(s).kinds.values()
            for line in dump_region(region).split("\n")
        ]
        for s in (one, other)
    ]
    assert shown[0] == shown[1]


def test_values_of_a_region_have_the_dtype_that_is_computed_in() -> None:
    for dtype in (torch.float32, torch.float64):
        for region in reference(small_spec("z"), dtype=dtype).kinds.values():
            floats = [
                value(n)
                for n in region.nodes()
                if isinstance(value(n), Tensor) and value(n).is_floating_point()
            ]
            assert {v.dtype for v in floats} == {dtype}
