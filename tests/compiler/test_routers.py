"""What each router computes: weights and choices, against loops over tokens and against `transformers`."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.cohere2_moe.modeling_cohere2_moe import Cohere2MoeTopKRouter
from transformers.models.dbrx.modeling_dbrx import DbrxFFN
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3TopkRouter
from transformers.models.ernie4_5_moe.modeling_ernie4_5_moe import Ernie4_5_MoeTopKRouter
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssTopKRouter
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.longcat_flash.modeling_longcat_flash import LongcatFlashTopkRouter
from transformers.models.minimax_m2.modeling_minimax_m2 import MiniMaxM2TopKRouter
from transformers.models.phimoe.modeling_phimoe import sparsemixer

from moec.compiler import model_ops
from moec.compiler.build.region import RegionBuilder, Setting, Shape
from moec.compiler.build.router import build_router
from moec.compiler.build.statistics import statistics_of
from moec.compiler.graph import ReferenceRegion, run
from moec.dsl.parameters import layer_parameters
from moec.dsl.spec import Moe, Spec
from small_models import SEQUENCE, small_spec

SEQUENCES, WIDTH, EXPERTS = 2, 16, 6
TOKENS = SEQUENCES * SEQUENCE


def router_region(spec: Spec) -> ReferenceRegion:
    """A region that is the router of a model's first layer: x (T, D) -> weights, chosen, sent (T, K)."""
    layer = spec.model.layers[0]
    (moe,) = [call.component for call in layer.calls() if isinstance(call.component, Moe)]
    shape = Shape(SEQUENCES, SEQUENCE, torch.float64)
    setting = Setting(spec.model, shape, statistics_of(spec.model), training=True)
    parameters = tuple(p for p in layer_parameters(layer, WIDTH) if p.path.startswith("experts."))
    region = RegionBuilder("router", parameters, setting, layer.origin)
    x = region.input("x", (TOKENS, WIDTH), torch.float64)
    routing = build_router(region.scope({"x": x}, {}), x, "experts", moe)
    assert routing.weights is not None
    assert routing.chosen is not None
    assert routing.sent is not None
    found = {"weights": routing.weights, "chosen": routing.chosen, "sent": routing.sent}
    return region.finish(found, {"x", "weights"})


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def routed(text: str, **changes: str) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """What a pipeline gives for some tokens, its parameters by name, and the tokens."""
    spec = small_spec(router=text, balance="none", **({"experts": str(EXPERTS)} | changes))
    region = router_region(spec)
    weights = {
        p.path.removeprefix("experts."): draw(*p.stored_shape, seed=seed).requires_grad_(p.trained)
        for seed, p in enumerate(region.parameters)
    }
    x = draw(TOKENS, WIDTH, seed=99).requires_grad_()
    found = run(region, {f"experts.{name}": w for name, w in weights.items()}, {"x": x})
    return found, weights, x


# --- against loops ---

Choices = list[list[tuple[int, Tensor]]]
"""Of every token, its experts with their weights, in order."""

Meaning = Callable[[Tensor, dict[str, Tensor]], Choices]
MEANINGS: dict[str, Meaning] = {}
"""Text -> what it means for the logits (S, E) of one sequence, and the router's parameters."""


def meaning(text: str) -> Callable[[Meaning], None]:
    return lambda function: MEANINGS.update({text: function})


def one_by_one(text: str) -> Callable[[Callable[[list[Tensor], dict[str, Tensor]], Any]], None]:
    """A meaning that looks at one token at a time, whose logits are a list."""
    return lambda function: MEANINGS.update({text: lambda logits, w: [function([*t], w) for t in logits]})


def best(values: list[Any], k: int) -> list[int]:
    return sorted(range(len(values)), key=lambda e: -torch.as_tensor(values[e]).item())[:k]


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def softmax(values: list[Tensor]) -> list[Tensor]:
    powers = [v.exp() for v in values]
    return [power / sum(powers) for power in powers]


@one_by_one("sigmoid | top(2) | renormalize(eps: 0.1)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    p = [sigmoid(x) for x in logits]
    chosen = best(p, 2)
    return [(e, p[e] / (p[chosen[0]] + p[chosen[1]] + 0.1)) for e in chosen]


@one_by_one("top(1) | sigmoid | scale(0.5)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    return [(e, sigmoid(logits[e]) / 2) for e in best(logits, 1)]


@one_by_one("sqrt_softplus | top(3) | renormalize(minimum: 3.5) | scale(1.5)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    p = [(1 + x.exp()).log().sqrt() for x in logits]
    chosen = best(p, 3)
    total = sum(p[e] for e in chosen)
    return [(e, 1.5 * p[e] / (total if total > 3.5 else 3.5)) for e in chosen]


@one_by_one("scale(3) | softcap(4) | scale(0.5) | softmax | top(2)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    p = softmax([0.5 * 4 * (3 * x / 4).tanh() for x in logits])
    return [(e, p[e]) for e in best(p, 2)]


@one_by_one("softmax | correction_bias | top(2) | renormalize | expert_scale | scale(0.5)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    p = softmax(logits)
    chosen = best([a + b for a, b in zip(p, w["correction"], strict=True)], 2)
    total = p[chosen[0]] + p[chosen[1]]
    return [(e, p[e] / total * w["expert_scale"][e] * 0.5) for e in chosen]


@one_by_one("correction_bias | top(2) | sigmoid")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    chosen = best([a + b for a, b in zip(logits, w["correction"], strict=True)], 2)
    return [(e, sigmoid(logits[e])) for e in chosen]


@one_by_one("softmax | groups(3, keep: 2) | top(3)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    p = softmax(logits)
    kept = best([max(p[2 * g], p[2 * g + 1]) for g in range(3)], 2)
    chosen = best([p[e] if e // 2 in kept else -1.0 for e in range(6)], 3)
    return [(e, p[e]) for e in chosen]


@one_by_one("sigmoid | correction_bias | groups(6, keep: 5, fill: zero) | top(4)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    p = [sigmoid(x) for x in logits]
    by = [(a + b).item() for a, b in zip(p, w["correction"], strict=True)]
    kept = best(by, 5)
    return [(e, p[e]) for e in best([by[e] if e in kept else 0.0 for e in range(6)], 4)]


@one_by_one("top(3) | softmax | renormalize(p: 2.5)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    chosen = best(logits, 3)
    p = softmax([logits[e] for e in chosen])
    norm = sum(x**2.5 for x in p) ** 0.4
    return [(e, x / norm) for e, x in zip(chosen, p, strict=True)]


@meaning("sinkhorn(iterations: 5) | top(2) | softmax")
def _(logits: Tensor, w: dict[str, Tensor]) -> Choices:
    plan = logits.detach().exp()
    for _ in range(5):
        plan = plan / plan.sum(1, keepdim=True) / len(plan)
        plan = plan / plan.sum(0, keepdim=True) / plan.shape[1]
    rows = [(best([*by], 2), [*row]) for by, row in zip(plan, logits, strict=True)]
    return [[*zip(chosen, softmax([row[e] for e in chosen]), strict=True)] for chosen, row in rows]


@meaning("softmax | round_robin(4)")
def _(logits: Tensor, w: dict[str, Tensor]) -> Choices:
    rows = [softmax([*row]) for row in logits]
    return [[(e, row[e]) for e in ((4 * t + i) % 6 for i in range(4))] for t, row in enumerate(rows)]


@one_by_one("sparsemixer(3, jitter: 0.2)")
def _(logits: list[Tensor], w: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    picks: list[tuple[int, Tensor]] = []
    left = dict(enumerate(logits))
    for _ in range(3):
        pick = max(left, key=lambda e: left[e].item())
        best_one = left[pick].item()
        near = [e for e, x in left.items() if (best_one - x.item()) / max(abs(x.item()), best_one) <= 0.4]
        picks.append((pick, softmax([left[e] for e in near])[near.index(pick)]))
        left.pop(pick)
    return picks


@meaning("softmax | top(2) | capacity(0.7)")
def _(logits: Tensor, w: dict[str, Tensor]) -> Choices:
    """ceil(0.7 * 6 * 2 / 6) = 2 of each expert; a later choice keeps its place, with a weight of zero."""
    taken = [0] * 6
    found: Choices = []
    for row in logits:
        p = softmax([*row])
        found.append([])
        for e in best(p, 2):
            found[-1].append((e, p[e] if taken[e] < 2 else 0 * p[e]))
            taken[e] += 1
    return found


@pytest.mark.parametrize("text", MEANINGS)
def test_a_router_means_what_its_pipeline_says(text: str) -> None:
    """Choices, weights, and gradients of tokens and parameters, in float64."""
    found, weights, x = routed(text)
    logits = x @ weights["router"].T
    rows = [row for part in logits.split(SEQUENCE) for row in MEANINGS[text](part, weights)]
    assert found["chosen"].tolist() == [[e for e, _ in row] for row in rows]
    expected = torch.stack([torch.stack([weight for _, weight in row]) for row in rows])
    torch.testing.assert_close(found["weights"], expected, rtol=1e-10, atol=1e-10)
    grad = draw(*expected.shape, seed=5)
    wrt = [x, *(w for name, w in weights.items() if name in ("router", "expert_scale"))]
    ours = torch.autograd.grad(found["weights"], wrt, grad)
    for one, other in zip(ours, torch.autograd.grad(expected, wrt, grad), strict=True):
        assert other.abs().max() > 0
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_expert_of_no_kept_group_can_be_chosen_where_the_fill_is_zero() -> None:
    """Before those whose correction makes them negative."""
    filled = [
        routed(f"sigmoid | correction_bias | groups(6, keep: 5{fill}) | top(4)")[0]["chosen"].tolist()
        for fill in (", fill: zero", "")
    ]
    assert filled[0] != filled[1]


def test_what_is_chosen_by_has_no_gradient() -> None:
    for text in ("sigmoid | correction_bias | top(2)", "sinkhorn | top(2) | softmax"):
        found, _, x = routed(text)
        assert found["weights"].requires_grad
        assert not found["chosen"].requires_grad
        assert torch.autograd.grad(found["weights"].sum(), x)[0].isfinite().all()


def test_the_router_has_a_bias() -> None:
    found, w, x = routed("top(2) | softmax", moe="router_bias: true,")
    expected = (x @ w["router"].T + w["router_bias"]).topk(2)
    assert torch.equal(found["chosen"], expected[1])
    torch.testing.assert_close(found["weights"], expected[0].softmax(1))


def test_a_choice_without_room_goes_nowhere() -> None:
    """Neither to an expert nor to an identity expert; what an expert takes of a sequence is limited."""
    found, _, _ = routed("softmax | top(2) | capacity(0.7)", moe="identity: 2,", experts="4")
    limit = math.ceil(0.7 * SEQUENCE * 2 / 6)
    gone = found["sent"] != found["chosen"]
    assert gone.any()
    assert (found["sent"][gone] == 6).all()
    assert (found["weights"][gone] == 0).all()
    for sent, chosen in zip(found["sent"].split(SEQUENCE), found["chosen"].split(SEQUENCE), strict=True):
        for expert in range(6):
            wanted = int((chosen == expert).sum())
            assert int((sent == expert).sum()) == min(wanted, limit)


def test_capacity_is_counted_in_decimal_digits() -> None:
    """1.1 * 10 is eleven and not a little more, of which the ceiling would be twelve."""
    chosen = torch.zeros((20, 1), dtype=torch.int64)
    room = model_ops.with_room(chosen, 20, 2, 1.1)
    assert int(room.sum()) == 11


@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_sinkhorn_evens_out_rows_and_columns(scale: float) -> None:
    """In the limit every token counts 1 / S and every expert 1 / E, however large the logits."""
    logits = draw(3 * 5, 4, seed=1) * scale
    plan = model_ops.sinkhorn(logits, 5, 400).view(3, 5, 4)
    assert plan.isfinite().all()
    torch.testing.assert_close(plan.sum(1), torch.full((3, 4), 1 / 4, dtype=torch.float64))
    if scale == 1.0:
        torch.testing.assert_close(plan.sum(2), torch.full((3, 5), 1 / 5, dtype=torch.float64))


# --- against transformers ---


def by_expert(weights: Tensor, chosen: Tensor) -> Tensor:
    """(T, K), (T, K) -> (T, E): weights in the place of their experts, whatever the order of choices."""
    full = weights.new_zeros((len(chosen), EXPERTS)).double()
    return full.scatter(1, chosen, weights.double())


def deepseek_v3(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    router = DeepseekV3TopkRouter(config).double()
    router.weight.data, router.e_score_correction_bias = w["router"], w["correction"]
    return by_expert(*router(x)[1:])


def longcat_flash(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    router = LongcatFlashTopkRouter(config).double()
    router.classifier.weight.data, router.e_score_correction_bias = w["router"], w["correction"]
    return by_expert(*router(x)[1:])


def ernie4_5_moe(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    router = Ernie4_5_MoeTopKRouter(config).double()
    router.weight.data = w["router"]
    router.moe_statics.e_score_correction_bias.data = w["correction"].unsqueeze(0)
    return by_expert(*router(x)[1:])


def gpt_oss(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    router = GptOssTopKRouter(config).double()
    router.weight.data, router.bias.data = w["router"], w["router_bias"]
    return by_expert(*router(x)[1:])


def llama4(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    router = Llama4Router(config).double()
    router.weight.data = w["router"]
    return router(x)[0].double()


def minimax_m2(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    router = MiniMaxM2TopKRouter(config).double()
    router.weight.data = w["router"]
    return by_expert(*router(x, w["correction"])[1:])


def phimoe(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    return by_expert(*sparsemixer(x @ w["router"].T, jitter_eps=0.2, training=False, top_k=2))


def dbrx(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    ffn = SimpleNamespace(top_k=3, moe_normalize_expert_weights=2)
    return by_expert(*DbrxFFN.route_tokens_to_experts(ffn, x @ w["router"].T))


def cohere2_moe(config: SimpleNamespace, x: Tensor, w: dict[str, Tensor]) -> Tensor:
    router = Cohere2MoeTopKRouter(config).double()
    router.weight.data = w["router"]
    return by_expert(*router(x)[1:])


SIZES = {"num_local_experts": EXPERTS, "num_experts": EXPERTS, "hidden_size": WIDTH}
TRANSFORMERS: dict[str, tuple[Callable[..., Tensor], str, dict[str, str], dict[str, Any]]] = {
    "deepseek_v3": (
        deepseek_v3,
        "sigmoid | correction_bias | groups(2, keep: 1, by: top2_sum) | top(2) | renormalize(eps: 1e-20)"
        " | scale(2.5)",
        {},
        {
            "num_experts_per_tok": 2,
            "n_group": 2,
            "topk_group": 1,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    ),
    "longcat_flash": (
        longcat_flash,
        "softmax | correction_bias | top(3) | scale(1.5)",
        {"experts": "4", "moe": "identity: 2,"},
        {
            "num_experts_per_tok": 3,
            "n_routed_experts": 4,
            "zero_expert_num": 2,
            "routed_scaling_factor": 1.5,
        },
    ),
    "ernie4_5_moe": (
        ernie4_5_moe,
        "softmax | correction_bias | top(2) | renormalize(minimum: 0.7)",
        {},
        {"num_experts_per_tok": 2, "moe_num_experts": EXPERTS, "moe_k": 2, "moe_norm_min": 0.7},
    ),
    "gpt_oss": (gpt_oss, "top(2) | softmax", {"moe": "router_bias: true,"}, {"num_experts_per_tok": 2}),
    "llama4": (llama4, "top(2) | sigmoid", {}, {"num_experts_per_tok": 2}),
    "minimax_m2": (
        minimax_m2,
        "sigmoid | correction_bias | top(2) | renormalize",
        {},
        {"num_experts_per_tok": 2},
    ),
    "phimoe": (phimoe, "sparsemixer(2, jitter: 0.2)", {}, {}),
    "dbrx": (dbrx, "softmax | top(3) | renormalize(p: 2)", {}, {}),
    "cohere2_moe": (
        cohere2_moe,
        "top(2) | sigmoid | renormalize",
        {},
        {"num_experts_per_tok": 2, "expert_selection_fn": "sigmoid", "norm_topk_prob": True},
    ),
}


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_routers_are_those_of_transformers(family: str) -> None:
    """Within float32, which some of them work in whatever the dtype of their input."""
    theirs, text, changes, config = TRANSFORMERS[family]
    found, weights, x = routed(text, **changes)
    w = {name: weight.detach() for name, weight in weights.items()}
    ours = by_expert(found["weights"], found["chosen"])
    expected = theirs(SimpleNamespace(**SIZES, **config), x, w)
    torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-6)
    grad = draw(*ours.shape, seed=5)
    one, other = (torch.autograd.grad(y, x, grad)[0] for y in (ours, expected))
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_a_score_too_small_for_its_dtype_has_a_gradient() -> None:
    """sqrt(ln(1 + exp(logit))) has the slope exp(logit / 2) / 2 there, next to nothing; not 0 / 0."""
    logits = torch.tensor([[-1e4, -2000.0, 1.0]], dtype=torch.float64, requires_grad=True)
    scores = model_ops.sqrt_softplus(logits)
    (slope,) = torch.autograd.grad(scores.sum(), logits)
    assert scores[0, 0] < 1e-100
    assert slope[0, :2].tolist() == [0.0, 0.0]
    assert slope[0, 2] > 0.2


def test_a_norm_of_high_order_of_small_weights_is_their_largest() -> None:
    """Their powers, 1e-1000 here, are 0."""
    weights = torch.tensor([[1e-10, 3e-11]], dtype=torch.float64, requires_grad=True)
    found = model_ops.renormalize(weights, 0.0, 0.0, 100.0)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0.3]], dtype=torch.float64))
    (slope,) = torch.autograd.grad(found[0, 1], weights)
    torch.testing.assert_close(slope, torch.tensor([[-3e9, 1e10]], dtype=torch.float64))


def test_room_for_more_than_there_is_drops_nothing() -> None:
    chosen = torch.zeros((6, 1), dtype=torch.int64)
    assert model_ops.with_room(chosen, 6, 4, 1e30).all()
