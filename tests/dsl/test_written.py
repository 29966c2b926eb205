"""A component written in full is checked into an equal one; equations are written as they were."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

import dsl_generated as generated
from dsl_again import again
from dsl_texts import SMALL, edited, load
from moec import models
from moec.dsl import spec as m
from moec.dsl.format import format_expression
from moec.dsl.vocabulary import CONSTRUCTS
from moec.dsl.written import embed_equation, equation_text, flat, head_equation, written


def components(model: m.ModelSpec) -> list[m.Component]:
    return list(dict.fromkeys(call.component for layer in set(model.layers) for call in layer.calls()))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(generated.models())
def test_any_component(text: str) -> None:
    model = load(text).model
    for component in components(model):
        assert again(component, model.width, model.context) == component


@pytest.mark.parametrize("name", models.names())
def test_components_of_shipped_models(name: str) -> None:
    model = load(f"use {name}\n").model
    for component in components(model):
        assert again(component, model.width, model.context) == component


@pytest.mark.parametrize("name", models.names())
def test_equations_of_shipped_models(name: str) -> None:
    """Written into the text they came from, they mean what they meant."""
    spec = load(f"use {name}\n")
    if len(set(spec.model.layers)) > 1:
        return  # its equations hold a match
    equations = "\n".join(map(equation_text, spec.model.layers[0].equations))
    embed = format_expression(embed_equation(spec.model.embed))
    logits = format_expression(head_equation(spec.model.head))
    text = f"""
use {name}
model {{
    x = {embed}
    layers {len(spec.model.layers)} {{
        {equations}
    }}
    logits = {logits}
}}
"""
    assert load(text).model == spec.model


def test_some_shipped_models_have_layers_of_one_kind() -> None:
    kinds = [len(set(load(f"use {name}\n").model.layers)) for name in models.names()]
    assert kinds.count(1) > 3


@pytest.mark.parametrize(
    "equation",
    [
        "x += norm(attention(norm(x)))",
        "x += 0.5 * attention(norm(x)) + experts(x)",
        "x = norm(x + attention(x))",
        "x += 0.5 * (experts(x) + attention(x))",
    ],
)
def test_an_equation(equation: str) -> None:
    spec = load(edited(SMALL, "x += attention(norm(x))\n        x += experts(norm(x))", equation))
    assert [equation_text(one) for one in spec.model.layers[0].equations] == [equation]


def test_a_norm_whose_name_looks_like_a_place() -> None:
    text = (
        SMALL.replace("norm(", "post_norm(")
        .replace("rms_post_norm", "rms_norm")
        .replace("norm  ", "post_norm  ")
    )
    text = text.replace("post_norm(x)", "post_norm(attention(post_norm(x)))", 1).replace(
        "attention(post_norm(a", "(a"
    )
    spec = load(
        text.replace("x += (attention", "x += (post_norm(attention").replace("(x)))\n", "(x))))\n", 1)
    )
    assert equation_text(spec.model.layers[0].equations[0]) == "x += post_norm(attention(post_norm(x)))"


def test_flat_values_have_the_paths_that_overrides_have() -> None:
    spec = load(SMALL)
    moe = next(call for call in spec.model.layers[0].calls() if call.path == "experts").component
    found = {fact.path: fact.value for fact in flat("experts", written(moe))}
    assert found["experts.experts"] == "4"
    assert found["experts.experts.width"] == "96"
    assert found["experts.router"] == "softmax | top | renormalize"
    assert found["experts.router.top"] == "2"
    for path in ("experts.experts", "experts.experts.width", "experts.router.top"):
        assert load(SMALL, f"{path}={found[path]}") == spec
        assert load(SMALL, f"{path}=3").model != spec.model


POSITIONS = [
    "rope(dims: 4, layout: interleaved)",
    "linear_rope(factor: 2)",
    "dynamic_rope(factor: 2, original: 64)",
    "ntk_rope(alpha: 3)",
    "yarn(factor: 2, original: 64, mscale: 1, mscale_all_dim: 0.7, truncate: false)",
    "yarn(factor: 2, original: 64, magnitude: 1.5)",
    "llama3_rope(factor: 2, original: 64)",
    "longrope(short: [1, 1, 1, 1, 1, 1, 1, 1], long: [1, 2, 3, 4, 5, 6, 7, 8], original: 64)",
    "none",
]


@pytest.mark.parametrize("text", POSITIONS)
def test_positions(text: str) -> None:
    spec = load(SMALL, f"attention.rope={text}")
    attention = next(call for call in spec.model.layers[0].calls() if call.path == "attention").component
    assert again(attention, 64, 128) == attention
    assert text.partition("(")[0] in {fact.value for fact in flat("x", written(attention))}


def test_all_positions_are_tried() -> None:
    named = {text.partition("(")[0] for text in POSITIONS} - {"none"}
    assert named == {name for name, one in CONSTRUCTS.items() if one.role == "position"}
