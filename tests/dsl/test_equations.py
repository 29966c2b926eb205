"""What equations of layers mean: locals, sums, products, and the names of the parameters of every call."""

from __future__ import annotations

import pytest

from dsl_texts import codes, edited, errors, load
from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl.parameters import layer_parameters, model_parameters

TEXT = """\
model small {
    vocab    = 320
    width    = 64
    context  = 128
    residual = 0.25

    norm      = rms_norm(eps: 1e-5)
    other     = rms_norm()
    bare      = rms_norm(weight: none)
    attention = gqa(heads: 4, kv_heads: 2)
    experts   = moe(experts: 4 of swiglu(96), router: softmax | top(2))

    layers 2 {
        EQUATIONS
    }

    logits = linear(norm(x))
}
"""

X = m.Var("x")
NORM, OTHER, BARE = m.RmsNorm(1e-5), m.RmsNorm(1e-6), m.RmsNorm(1e-6, "none")


def _layer(equations: str, *overrides: str) -> m.Layer:
    return load(TEXT.replace("EQUATIONS", equations), *overrides).model.layers[0]


def _component(name: str) -> m.Component:
    return next(call.component for call in _layer(f"x += {name}(x)").calls())


ATTENTION, EXPERTS = _component("attention"), _component("experts")


def _values(equations: str) -> list[tuple[str, bool, m.Expression]]:
    return [(e.target, e.add, e.value) for e in _layer(equations).equations]


def test_a_local_holds_a_value_of_the_layer() -> None:
    assert _values("h = norm(x)\nx += attention(h)\nx = experts(h)") == [
        ("h", False, m.Call("norm", NORM, X)),
        ("x", True, m.Call("attention", ATTENTION, m.Var("h"))),
        ("x", False, m.Call("experts", EXPERTS, m.Var("h"))),
    ]


def test_a_sum_is_one_value_and_its_terms_are_named_by_themselves() -> None:
    assert _values("h = norm(x)\nx += attention(h) + experts(h)") == [
        ("h", False, m.Call("norm", NORM, X)),
        (
            "x",
            True,
            m.Sum((m.Call("attention", ATTENTION, m.Var("h")), m.Call("experts", EXPERTS, m.Var("h")))),
        ),
    ]


@pytest.mark.parametrize(
    ("written", "factor"),
    [
        ("0.5 * experts(x)", 0.5),
        ("experts(x) / 8", 0.125),
        ("residual * experts(x)", 0.25),
        ("2 * experts(x) * 3 / residual", 24.0),
        ("-1 * experts(x)", -1.0),
        ("experts(x) / sqrt(width)", 0.125),
        ("(1 / width) * experts(x)", 1 / 64),
        ("sqrt(2) * experts(x)", 2**0.5),
    ],
)
def test_a_product_scales_one_value_by_all_its_numbers(written: str, factor: float) -> None:
    ((_, _, value),) = _values(f"x += {written}")
    assert value == m.Scaled(factor, m.Call("experts", EXPERTS, X))


def test_products_bind_before_sums_and_parentheses_before_both() -> None:
    experts = m.Call("experts", EXPERTS, X)
    assert _values("x += 2 * experts(x) + x / 4")[0][2] == m.Sum((m.Scaled(2, experts), m.Scaled(0.25, X)))
    assert _values("x += 2 * (experts(x) + x)")[0][2] == m.Scaled(2, m.Sum((experts, X)))


NAMES = [
    ("x += attention(norm(x))", ["attention.norm", "attention"]),
    ("x += norm(attention(x))", ["attention", "attention.post_norm"]),
    ("x += norm(attention(norm(x)))", ["attention.norm", "attention", "attention.post_norm"]),
    ("x += norm(0.5 * attention(0.5 * norm(x)))", ["attention.norm", "attention", "attention.post_norm"]),
    ("h = norm(x)\nx += attention(h)", ["norm", "attention"]),
    ("x += norm(attention(x) + experts(x))", ["attention", "experts", "norm"]),
    (
        "x += attention(norm(x)) + experts(other(x))",
        ["attention.norm", "attention", "experts.other", "experts"],
    ),
    ("x += attention(norm(x) + other(x))", ["attention.norm", "attention.other", "attention"]),
    ("x += experts(norm(attention(x)))", ["attention", "experts.norm", "experts"]),
    ("x += other(norm(attention(x)))", ["attention", "attention.post_norm", "attention.post_other"]),
    ("h = attention(x)\nx += norm(h)", ["attention", "norm"]),
    ("x += norm(x)", ["norm"]),
]  # fmt: skip


@pytest.mark.parametrize(("equations", "paths"), NAMES, ids=[case[0] for case in NAMES])
def test_names_of_calls_follow_the_text(equations: str, paths: list[str]) -> None:
    assert [call.path for call in _layer(equations).calls()] == paths


def test_a_local_may_be_used_again_and_a_component_with_parameters_may_not() -> None:
    assert len(_layer("h = norm(x)\nx += h + h\nx += 2 * h").equations) == 3
    found = errors(TEXT.replace("EQUATIONS", "x += norm(x)\nx += norm(x)"))
    assert codes(found) == {c.PARAMETERS_TWICE.code}
    assert codes(errors(TEXT.replace("EQUATIONS", "x += experts(norm(x)) + experts(other(x))"))) == {
        c.PARAMETERS_TWICE.code
    }


def test_a_component_without_parameters_may_be_used_again() -> None:
    layer = _layer("x += bare(x)\nx += bare(x) + attention(bare(x))")
    assert [p.path for p in layer_parameters(layer, 64)] == [f"attention.{name}" for name in "qkvo"]


@pytest.mark.parametrize("name", ["q", "k", "o"])
def test_a_norm_cannot_take_the_name_of_a_parameter(name: str) -> None:
    text = edited(TEXT, "    other ", f"    {name} = layer_norm()\n    other ")
    found = errors(text.replace("EQUATIONS", f"x += attention({name}(x))"))
    assert codes(found) == {c.PARAMETERS_TWICE.code}
    assert load(text.replace("EQUATIONS", f"x += {name}(attention(x))"))


def test_names_of_all_parameters_are_different() -> None:
    """Over all layers and both ends, whatever the equations."""
    text = edited(TEXT, "    layers 2", "    x = 8 * norm(embed(tokens))\n\n    layers 2")
    for equations, _ in NAMES:
        model = load(text.replace("EQUATIONS", equations)).model
        names = [name for region, p in model_parameters(model) for name in p.names(region)]
        assert len(names) == len(set(names))


# --- the ends of a model ---


def _ends(x: str, logits: str) -> m.ModelSpec:
    text = TEXT.replace("EQUATIONS", "x += attention(norm(x))")
    text = edited(text, "logits = linear(norm(x))", f"logits = {logits}")
    return load(edited(text, "    layers 2", f"    {x}\n\n    layers 2")).model


@pytest.mark.parametrize(
    ("written", "scale", "norm"),
    [
        ("", 1.0, None),
        ("x = embed(tokens)", 1.0, None),
        ("x = 12 * embed(tokens)", 12.0, None),
        ("x = sqrt(width) * embed(tokens)", 8.0, None),
        ("x = embed(tokens) / 2", 0.5, None),
        ("x = norm(embed(tokens))", 1.0, m.Call("embed_norm", NORM, X)),
        ("x = 3 * other(embed(tokens: tokens))", 3.0, m.Call("embed_other", OTHER, X)),
    ],
)
def test_the_embedding(written: str, scale: float, norm: m.Call | None) -> None:
    model = _ends(written, "linear(norm(x))")
    assert model.embed == m.Embed(scale, norm)
    names = [p.path for region, p in model_parameters(model) if not region]
    assert names == ["embed", *([] if norm is None else [norm.path]), "norm", "logits"]


@pytest.mark.parametrize(
    ("written", "head"),
    [
        ("linear(x)", m.Head(X)),
        ("linear(norm(x), tied: true)", m.Head(m.Call("norm", NORM, X), tied=True)),
        ("linear(norm(x), bias: true)", m.Head(m.Call("norm", NORM, X), bias=True)),
        ("linear(norm(x)) / 16", m.Head(m.Call("norm", NORM, X), scale=1 / 16)),
        ("0.0625 * linear(x)", m.Head(X, scale=1 / 16)),
        ("softcap(linear(x), 30)", m.Head(X, softcap=30.0)),
        ("softcap(residual * linear(x, tied: true), limit: 30)", m.Head(X, True, False, 0.25, 30.0)),
        ("linear(norm(x) / 8)", m.Head(m.Scaled(0.125, m.Call("norm", NORM, X)))),
    ],
)
def test_the_output(written: str, head: m.Head) -> None:
    assert _ends("", written).head == head


def test_the_name_of_a_tied_output_with_a_bias() -> None:
    model = _ends("", "linear(norm(x), tied: true, bias: true)")
    assert [p.path for region, p in model_parameters(model) if not region] == ["embed", "norm", "logits_bias"]


def test_an_equation_with_a_faulty_component_says_nothing_of_its_own() -> None:
    """A fault is told where it is: at the binding, and not at locals that depend on it."""
    text = TEXT.replace("EQUATIONS", "h = experts(norm(x))\nx += attention(h)\nx += h")
    assert codes(errors(edited(text, "top(2)", "top(9)"))) == {c.TOP_TOO_LARGE.code}
