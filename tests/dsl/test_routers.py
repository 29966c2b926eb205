"""Routers: every stage and loss reaches its class, and the order of stages is the one of the reference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_components import MOE, SWIGLU, Cases, arguments, component
from dsl_texts import SMALL, codes, edited, errors, load
from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl.vocabulary import CHOOSERS, CONSTRUCTS, ROUTER_ORDER

SCORE, TOP = m.Softmax(), m.Top(2)


def _router(text: str, *stages: m.RouterStage) -> tuple[str, m.Component]:
    return f"moe(experts: 8 of swiglu(96), router: {text})", replace(MOE, router=stages)


def _loss(text: str, *terms: m.BalanceTerm) -> tuple[str, m.Component]:
    return _moe(f"balance: {text}", balance=terms)


def _moe(argument: str, **fields: object) -> tuple[str, m.Component]:
    expected = replace(MOE, **fields)  # type: ignore[arg-type]
    return f"moe(experts: 8 of swiglu(96), router: softmax | top(2), {argument})", expected


STAGES: Cases = {
    ("softcap", "limit"): _router("softcap(30) | softmax | top(2)", m.Softcap(30.0), SCORE, TOP),
    ("scale", "factor"): _router(
        "scale(cap) | softmax | top(2) | scale(factor: 16)", m.Scale(2.5), SCORE, TOP, m.Scale(16.0)
    ),
    ("correction_bias", "update"): _router(
        "softmax | correction_bias(update: 0.001) | top(2)", SCORE, m.CorrectionBias(0.001), TOP
    ),
    ("groups", "groups"): _router("softmax | groups(2, keep: 1) | top(2)", SCORE, m.Groups(2, 1), TOP),
    ("groups", "keep"): _router("softmax | groups(4, keep: 3) | top(2)", SCORE, m.Groups(4, 3), TOP),
    ("groups", "by"): _router(
        "softmax | groups(4, keep: 2, by: top2_sum) | top(2)", SCORE, m.Groups(4, 2, "top2_sum"), TOP
    ),
    ("groups", "fill"): _router(
        "softmax | groups(4, keep: 2, fill: zero) | top(2)", SCORE, m.Groups(4, 2, "max", "zero"), TOP
    ),
    ("sinkhorn", "iterations"): _router(
        "softmax | sinkhorn(iterations: 3) | top(2)", SCORE, m.Sinkhorn(3), TOP
    ),
    ("jitter", "eps"): _router("jitter(0.01) | softmax | top(2)", m.Jitter(0.01), SCORE, TOP),
    ("top", "k"): _router("softmax | top(size / 8)", SCORE, m.Top(6)),
    ("sparsemixer", "k"): _router("sparsemixer(2)", m.SparseMixer(2)),
    ("sparsemixer", "jitter"): _router("sparsemixer(2, jitter: 0.1)", m.SparseMixer(2, 0.1)),
    ("hash", "k"): _router("softmax | hash(8)", SCORE, m.Hash(8)),
    ("round_robin", "k"): _router("softmax | round_robin(3)", SCORE, m.RoundRobin(3)),
    ("renormalize", "eps"): _router(
        "softmax | top(2) | renormalize(eps: 1e-20)", SCORE, TOP, m.Renormalize(1e-20)
    ),
    ("renormalize", "minimum"): _router(
        "softmax | top(2) | renormalize(minimum: 1e-12)", SCORE, TOP, m.Renormalize(minimum=1e-12)
    ),
    ("renormalize", "p"): _router("softmax | top(2) | renormalize(p: 2)", SCORE, TOP, m.Renormalize(p=2.0)),
    ("capacity", "factor"): _router("softmax | top(2) | capacity(1.25)", SCORE, TOP, m.Capacity(1.25)),
    ("capacity", "pad"): _router(
        "softmax | top(2) | capacity(2, pad: true)", SCORE, TOP, m.Capacity(2.0, True)
    ),
}
LOSSES: Cases = {
    ("aux_loss", "over"): _loss("aux_loss(0.01, over: batch)", m.AuxLoss(0.01, over="batch")),
    ("aux_loss", "coefficient"): _loss("aux_loss(0.01)", m.AuxLoss(0.01)),
    ("aux_loss", "per"): _loss("aux_loss(0.01, per: layer)", m.AuxLoss(0.01, "layer")),
    ("aux_loss", "choices"): _loss("aux_loss(0.01, choices: softmax)", m.AuxLoss(0.01, "model", "softmax")),
    ("sequence_aux_loss", "coefficient"): _loss("sequence_aux_loss(1e-4)", m.SequenceAuxLoss(1e-4)),
    ("z_loss", "coefficient"): _loss("z_loss(cap)", m.ZLoss(2.5)),
}
SHARED = m.SharedExperts(m.Ffn(64))
MIXTURES: Cases = {
    ("moe", "experts"): ("moe(experts: size of network, router: softmax | top(2))", replace(MOE, experts=48)),
    ("moe", "shared"): _moe("shared: 3 of swiglu(64)", shared=m.SharedExperts(m.Ffn(192), count=3)),
    ("moe", "shared_gate"): _moe(
        "shared: 1 of swiglu(64), shared_gate: true", shared=replace(SHARED, gate=True)
    ),
    ("moe", "combine"): _moe(
        "shared: 1 of swiglu(64), combine: average", shared=replace(SHARED, average=True)
    ),
    ("moe", "router"): _router("top(4) | sigmoid", m.Top(4), m.Sigmoid()),
    ("moe", "router_bias"): _moe("router_bias: true", router_bias=True),
    ("moe", "identity"): _moe("identity: 4", identity=4),
    ("moe", "weigh"): _moe("weigh: input", weigh="input"),
    ("moe", "latent"): _moe("latent: 32", latent=32),
    ("moe", "latent_norm"): _moe("latent: 32, latent_norm: named", latent=32, latent_norm=m.LayerNorm(0.5)),
    ("moe", "expert_norm"): _moe("expert_norm: rms_norm", expert_norm=m.RmsNorm(1e-6)),
    ("moe", "balance"): _loss("z_loss(0.1) + aux_loss(0.2)", m.ZLoss(0.1), m.AuxLoss(0.2)),
}
CASES = STAGES | LOSSES | MIXTURES
PUBLISHED: Cases = {  # routers of published models
    ("mixtral", ""): _router("softmax | top(2) | renormalize", SCORE, TOP, m.Renormalize()),
    ("gpt_oss", ""): _router("top(2) | softmax", TOP, SCORE),
    ("llama4", ""): _router("top(1) | sigmoid", m.Top(1), m.Sigmoid()),
    ("laguna", ""): _router(
        "softcap(30) | sigmoid | correction_bias | top(2) | renormalize | scale(2.5)",
        *(m.Softcap(30.0), m.Sigmoid(), m.CorrectionBias(), TOP, m.Renormalize(), m.Scale(2.5)),
    ),
    ("deepseek_v4", ""): _router("sqrt_softplus | hash(2)", m.SqrtSoftplus(), m.Hash(2)),
    ("kolibri1", ""): _router(
        "correction_bias | top(2) | sigmoid | renormalize",
        *(m.CorrectionBias(), TOP, m.Sigmoid(), m.Renormalize()),
    ),
    ("gemma4", ""): _router("softmax | top(2) | expert_scale", SCORE, TOP, m.ExpertScale()),
    ("all at once", ""): _router(
        "jitter(0.1) | scale(2) | softcap(3) | scale(4) | sigmoid | correction_bias | groups(4, keep: 2) "
        "| top(2) | softmax | renormalize | expert_scale | scale(2) | capacity(1)",
        *(m.Jitter(0.1), m.Scale(2.0), m.Softcap(3.0), m.Scale(4.0), m.Sigmoid(), m.CorrectionBias()),
        *(m.Groups(4, 2), TOP, SCORE, m.Renormalize(), m.ExpertScale(), m.Scale(2.0), m.Capacity(1.0)),
    ),
}


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=[".".join(key) for key in CASES])
def test_argument(text: str, expected: m.Component) -> None:
    assert component(text) == expected


def test_every_argument_is_tested() -> None:
    names = [x.name for x in CONSTRUCTS.values() if x.role in ("stage", "balance")]
    assert CASES.keys() == arguments([*names, "moe"])


@pytest.mark.parametrize(("text", "expected"), PUBLISHED.values(), ids=[key for key, _ in PUBLISHED])
def test_routers_of_published_models(text: str, expected: m.Component) -> None:
    assert component(text) == expected


def test_shared_experts_are_one_network() -> None:
    """`N of f(W)` and `1 of f(N * W)` compute the same and differ in their count only."""
    found = component(_moe("shared: 4 of mlp(16, act: relu, bias: true)")[0])
    assert isinstance(found, m.Moe)
    assert found.shared == m.SharedExperts(m.Ffn(64, "relu", gated=False, bias=True), count=4)


def test_a_default_written_out_changes_nothing() -> None:
    for param in CONSTRUCTS["moe"].params:
        if param.default is not None:
            assert component(_moe(f"{param.name}: {param.default}")[0]) == MOE, param.name
    for name in ("correction_bias", "sinkhorn", "renormalize", "groups"):
        given = "2, keep: 1" if name == "groups" else ""
        for param in (p for p in CONSTRUCTS[name].params if p.default is not None):
            written = f"{name}({given}{', ' * bool(given)}{param.name}: {param.default})"
            pipelines = [
                f"softmax | top(2) | {stage}" if name == "renormalize" else f"softmax | {stage} | top(2)"
                for stage in (written, f"{name}({given})")
            ]
            assert component(_router(pipelines[0])[0]) == component(_router(pipelines[1])[0]), written


# --- the order ---

TEXTS = {
    "jitter": "jitter(0.1)", "scale": "scale(2)", "softcap": "softcap(30)", "softmax": "softmax",
    "sigmoid": "sigmoid", "sqrt_softplus": "sqrt_softplus", "correction_bias": "correction_bias",
    "sinkhorn": "sinkhorn", "groups": "groups(2, keep: 2)", "top": "top(2)", "sparsemixer": "sparsemixer(2)",
    "hash": "hash(2)", "round_robin": "round_robin(2)", "renormalize": "renormalize",
    "expert_scale": "expert_scale", "capacity": "capacity(2)",
}  # fmt: skip
LETTERS = {
    "jitter": "j", "scale": "f", "softcap": "c", "softmax": "s", "sigmoid": "s", "sqrt_softplus": "p",
    "correction_bias": "b", "sinkhorn": "b", "groups": "g", "top": "T", "sparsemixer": "M", "hash": "H",
    "round_robin": "H", "renormalize": "r", "expert_scale": "e", "capacity": "k",
}  # fmt: skip
BEFORE, AFTER = "j?[fc]*", "r?f*e?f*k?"
LEGAL = re.compile(
    f"{BEFORE}([sp]b?g?Ts?|b?g?Ts|[sp]Hs?|Hs|M){AFTER}"  # a score before the choice, after it, or both
)


def _accepted(names: Sequence[str]) -> bool:
    router = " | ".join(TEXTS[name] for name in names)
    text = edited(SMALL, "softmax | top(2) | renormalize", router)
    try:
        load(text)
    except Exception:
        assert codes(errors(text)) == {c.BAD_ROUTER.code}, router
        return False
    return True


def test_the_stages_of_the_oracle_are_those_of_the_language() -> None:
    stages = {x.name for x in CONSTRUCTS.values() if x.role == "stage"}
    assert stages == TEXTS.keys() == LETTERS.keys() == {name for group in ROUTER_ORDER for name in group}


@st.composite
def ordered(draw: st.DrawFn) -> list[str]:
    """Stages in a legal order, most of them present, whatever goes with the one that chooses."""
    names: list[str] = []
    for group in ROUTER_ORDER:
        if group == CHOOSERS or draw(st.booleans()):
            names.append(draw(st.sampled_from(group)))
    return names


@settings(max_examples=300, deadline=None)
@given(ordered(), st.data())
def test_a_router_is_accepted_if_it_has_the_form_of_the_reference(
    names: list[str], data: st.DataObject
) -> None:
    """Legal pipelines, with at times two stages exchanged or one repeated, against a regular expression."""
    if data.draw(st.booleans()):
        i, j = (data.draw(st.integers(0, len(names) - 1)) for _ in range(2))
        names[i], names[j] = names[j], names[i]
    if data.draw(st.integers(0, 3)) == 0:
        names.insert(data.draw(st.integers(0, len(names))), data.draw(st.sampled_from(names)))
    form = "".join(LETTERS[name] for name in names)
    assert _accepted(names) == bool(LEGAL.fullmatch(form)), form


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(sorted(TEXTS)), min_size=1, max_size=5))
def test_any_stages_in_any_order(names: list[str]) -> None:
    form = "".join(LETTERS[name] for name in names)
    assert _accepted(names) == bool(LEGAL.fullmatch(form)), form


@pytest.mark.parametrize("names", [("top", "softmax", "renormalize", "scale"), ("softmax", "groups", "top")])
def test_the_advice_is_a_router(names: tuple[str, ...]) -> None:
    """What is suggested for a pipeline in the wrong order is accepted."""
    wrong = " | ".join(TEXTS[name] for name in reversed(names))
    (found,) = errors(edited(SMALL, "softmax | top(2) | renormalize", wrong))
    advice = found.advice.removeprefix("write `").removesuffix("`")
    load(edited(SMALL, "softmax | top(2) | renormalize", advice))


def test_identity_experts_count_as_choices() -> None:
    text = "moe(experts: 2 of swiglu(96), router: softmax | top(6), identity: 4)"
    assert component(text) == m.Moe(2, SWIGLU, (SCORE, m.Top(6)), identity=4)
