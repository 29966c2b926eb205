"""`match layer`: which layers a pattern holds for, and what it makes of bindings and equations."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_texts import codes, edited, errors, load
from moec import dsl
from moec.dsl import catalogue as c
from moec.dsl import spec as m

TEXT = """\
model small {
    vocab   = 320
    width   = 64
    context = 128

    norm      = rms_norm(eps: 1e-5)
    attention = gqa(heads: 4, kv_heads: 2)
    dense     = swiglu(32)
    experts   = moe(experts: 4 of swiglu(96), router: softmax | top(2))

    layers 6 {
        x += attention(norm(x))
        x += experts(norm(x))
    }

    logits = linear(norm(x))
}
"""


def _text(attention: str = "gqa(heads: 4, kv_heads: 2)", bindings: str = "") -> str:
    text = edited(TEXT, "gqa(heads: 4, kv_heads: 2)", attention)
    return edited(text, "    norm ", f"    {bindings}\n    norm ")


def _components(text: str, name: str, *overrides: str) -> list[m.Component]:
    """The component of this path, layer by layer."""
    layers = load(text, *overrides).model.layers
    return [next(call.component for call in layer.calls() if call.path == name) for layer in layers]


def _windows(text: str, *overrides: str) -> list[int | None]:
    found = _components(text, "attention", *overrides)
    return [one.attend.window for one in found if isinstance(one, m.Gqa)]


def _held(pattern: str, *overrides: str, bindings: str = "") -> list[int]:
    """The layers that a pattern holds for."""
    text = _text(f"gqa(heads: 4, window: match layer {{ {pattern} => 8, _ => none }})", bindings)
    return [layer for layer, window in enumerate(_windows(text, *overrides)) if window == 8]


PATTERNS = [
    ("3", [3]),
    ("1 + 1", None),
    ("0..3", [0, 1, 2]),
    ("4..6", [4, 5]),
    ("3..3", []),
    ("[0, 4]", [0, 4]),
    ("[]", []),
    ("every(1)", [0, 1, 2, 3, 4, 5]),
    ("every(2)", [1, 3, 5]),
    ("every(4)", [3]),
    ("every(9)", []),
    ("every(2, offset: 0)", [0, 2, 4]),
    ("every(2, offset: 3)", [3, 5]),
    ("every(n: 3, offset: 1)", [1, 4]),
    ("six / 3", [2]),
    ("1..six", [1, 2, 3, 4, 5]),
    ("every(six / 2)", [2, 5]),
    ("listed", [1, 2]),
    ("ranged", [2, 3, 4]),
    ("spaced", [0, 3]),
    ("one", [1]),
    ("_", [0, 1, 2, 3, 4, 5]),
]
BOUND = "six = 6, listed = [1, 2], ranged = 2..5, spaced = every(3, offset: 0), one = 1"


@pytest.mark.parametrize(("pattern", "layers"), PATTERNS, ids=[case[0] for case in PATTERNS])
def test_a_pattern(pattern: str, layers: list[int] | None) -> None:
    text = _text(f"gqa(heads: 4, window: match layer {{ {pattern} => 8, _ => none }})", BOUND)
    if layers is None:
        assert codes(errors(text)) == {c.BAD_PATTERN.code}
    else:
        assert _held(pattern, bindings=BOUND) == layers


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.none() | st.integers(0, 8), st.integers(1, 9))
def test_every(n: int, offset: int | None, layers: int) -> None:
    written = f"every({n})" if offset is None else f"every({n}, offset: {offset})"
    first = n - 1 if offset is None else offset
    assert _held(written, f"layers={layers}") == [
        i for i in range(layers) if i >= first and (i - first) % n == 0
    ]


@pytest.mark.parametrize("value", ["every(3)", "[2, 5]", "every(3, offset: 2)", "[5, 2, 2]"])
def test_a_bound_pattern_is_replaced_from_outside(value: str) -> None:
    assert _held("full", bindings="full = 0..1") == [0]
    assert _held("full", f"full={value}", bindings="full = 0..1") == [2, 5]


def test_the_first_arm_that_holds_counts() -> None:
    text = _text("gqa(heads: 4, window: match layer { 0..3 => 4, 2..5 => 8, _ => none })")
    assert _windows(text) == [4, 4, 4, 8, 8, None]


# --- where a match can stand ---


def test_an_argument_may_vary_at_any_depth() -> None:
    """Each layer has what the text with its arm in the place of the match means."""
    text = _text(
        "gqa(heads: 4, rope: match layer { every(2) => none, _ => yarn(factor: 4, original: 32) }, "
        "qk_norm: per_head(rms_norm(eps: match layer { every(2) => 1e-3, _ => 1e-4 })))"
    )
    text = edited(text, "top(2)", "top(match layer { every(2) => 1, _ => 2 })")
    layers = load(text).model.layers
    for layer, eps, rope, top in ((0, "1e-4", "yarn(factor: 4, original: 32)", 2), (1, "1e-3", "none", 1)):
        alone = _text(f"gqa(heads: 4, rope: {rope}, qk_norm: per_head(rms_norm(eps: {eps})))")
        assert layers[layer] == load(edited(alone, "top(2)", f"top({top})")).model.layers[0]
    assert layers[0::2] == (layers[0],) * 3
    assert layers[1::2] == (layers[1],) * 3


@pytest.mark.parametrize(
    "experts",
    [
        "match layer { 0..2 => 8 of swiglu(16), _ => 4 of swiglu(32) }",
        "match layer { 0..2 => 8, _ => 4 } of swiglu(match layer { 0..2 => 16, _ => 32 })",
        "counts of swiglu(widths)",
        "counts of swiglu(128 / counts)",
    ],
)
def test_a_part_of_experts_may_vary(experts: str) -> None:
    bindings = "counts = match layer { 0..2 => 8, _ => 4 }, widths = match layer { 0..2 => 16, _ => 32 }"
    found = _components(edited(_text(bindings=bindings), "4 of swiglu(96)", experts), "experts")
    sizes = [(one.experts, one.expert.width) for one in found if isinstance(one, m.Moe)]
    assert sizes == [(8, 16)] * 2 + [(4, 32)] * 4


def test_a_whole_binding_may_vary() -> None:
    text = _text("match layer { every(2) => gqa(heads: 2), _ => gqa(heads: 4) }")
    assert [one.heads for one in _components(text, "attention") if isinstance(one, m.Gqa)] == [4, 2] * 3


def test_what_refers_to_a_binding_that_varies_varies_with_it() -> None:
    bindings = (
        "full = every(3), kv = match layer { full => few, _ => 4 }, few = 2, inner = rms_norm(eps: eps), "
    )
    bindings += "eps = match layer { 0 => 1e-3, _ => 1e-4 }"
    found = _components(_text("gqa(heads: 4, kv_heads: kv, qk_norm: per_head(inner))", bindings), "attention")
    seen = [(one.kv_heads, one.qk_norm.norm.eps) for one in found if isinstance(one, m.Gqa) and one.qk_norm]
    assert seen == [(4, 1e-3), (4, 1e-4), (2, 1e-4), (4, 1e-4), (4, 1e-4), (2, 1e-4)]


def test_a_factor_of_an_equation_may_vary() -> None:
    text = _text(bindings="deep = match layer { 0..3 => 1, _ => 0.5 }")
    text = edited(
        text, "x += attention(norm(x))", "x += deep * attention(norm(x)) / match layer { 0 => 2, _ => 1 }"
    )
    values = [layer.equations[0].value for layer in load(text).model.layers]
    assert [one.factor for one in values if isinstance(one, m.Scaled)] == [0.5, 1, 1, 0.5, 0.5, 0.5]


def test_a_match_may_choose_a_component_or_a_whole_value() -> None:
    called = edited(
        TEXT, "x += experts(norm(x))", "x += match layer { 0..2 => dense, _ => experts }(norm(x))"
    )
    chosen = edited(
        TEXT, "x += experts(norm(x))", "x += match layer { 0..2 => dense(norm(x)), _ => experts(norm(x)) }"
    )
    local = edited(
        TEXT, "x += experts(norm(x))", "h = match layer { 0..2 => dense, _ => experts }(norm(x))\nx += h"
    )
    paths = [[call.path for call in layer.calls()][-1] for layer in load(called).model.layers]
    assert paths == ["dense"] * 2 + ["experts"] * 4
    assert load(chosen).model.layers == load(called).model.layers
    assert [[call.path for call in layer.calls()][-1] for layer in load(local).model.layers] == paths


def test_matches_nest_and_an_inner_one_covers_only_what_reaches_it() -> None:
    text = _text("gqa(heads: 4, window: match layer { 0..3 => match layer { 0 => 1, 1..3 => 2 }, _ => 3 })")
    assert _windows(text) == [1, 2, 2, 3, 3, 3]


def test_equal_layers_are_one_kind_however_they_are_written() -> None:
    text = _text("gqa(heads: 4, window: match layer { 0 => 8, 1 => 4 * 2, every(3) => 8, _ => 8 })")
    layers = load(text).model.layers
    assert len({id(layer) for layer in layers}) == 1
    assert layers == load(_text("gqa(heads: 4, window: 8)")).model.layers


# --- mistakes ---


def test_a_mistake_outside_of_the_arms_is_told_once() -> None:
    found = errors(_text("gqa(heads: 4, window: match layer { every(2) => 1, _ => 2 }, clip: -1)"))
    assert [one.code for one in found] == [c.OUT_OF_RANGE.code]


def test_a_mistake_in_one_arm_is_told_at_its_place() -> None:
    (found,) = errors(_text("gqa(heads: 4, window: match layer { every(2) => 1, _ => 0 })"))
    assert found.code == c.OUT_OF_RANGE.code
    assert found.span is not None
    assert found.span.text == "0"


@pytest.mark.parametrize(
    ("argument", "arms"),
    [
        ("window", "none, _ => 16"),
        ("sinks", "true, _ => false"),
        ("qk_norm", "none, _ => none"),
        ("clip", "4, _ => none"),
    ],
)
def test_a_name_may_stand_for_a_word_in_some_layers(argument: str, arms: str) -> None:
    match = f"match layer {{ every(3) => {arms} }}"
    by_name = _text(f"gqa(heads: 4, {argument}: other)", f"named = {match}, other = named")
    assert load(by_name).model.layers == load(_text(f"gqa(heads: 4, {argument}: {match})")).model.layers


def test_arms_that_fit_each_other_are_checked_together_only() -> None:
    """Two matches over one pattern never mix their arms."""
    heads = "match layer { every(2) => 6, _ => 4 }"
    text = _text(f"gqa(heads: {heads}, kv_heads: match layer {{ every(2) => 3, _ => 4 }}, head_dim: 16)")
    found = _components(text, "attention")
    assert [(one.heads, one.kv_heads) for one in found if isinstance(one, m.Gqa)] == [(4, 4), (6, 3)] * 3


@pytest.mark.parametrize("setting", ["vocab", "width", "context"])
def test_sizes_of_the_model_do_not_vary(setting: str) -> None:
    text = TEXT.replace(f"    {setting} ", f"    {setting} = match layer {{ _ => 64 }} # ")
    assert codes(errors(text)) == {c.WRONG_TYPE.code}


# --- what is shown of it ---


def test_the_summary_tells_what_varies() -> None:
    bindings = "swa = match layer { every(3) => none, _ => 16 }"
    text = _text("gqa(heads: 4, window: swa)", bindings)
    text = edited(text, "x += experts(norm(x))", "x += match layer { 0 => dense, _ => experts }(norm(x))")
    spec = load(text)
    summary = dsl.summary(spec)
    assert summary["layer_kinds"] == 3
    assert summary["varies"] == {
        "equation 2": [
            {"value": "x += dense(norm(x))", "layers": [0]},
            {"value": "x += experts(norm(x))", "layers": [1, 2, 3, 4, 5]},
        ],
        "attention.window": [
            {"value": "16", "layers": [0, 1, 3, 4]},
            {"value": "none", "layers": [2, 5]},
        ],
    }
    shown = dsl.summary_text(spec)
    assert "6 layers of 3 kinds" in shown
    assert "attention.window: none in 2, 5; 16 elsewhere" in shown


def test_the_summary_of_equal_layers_tells_nothing_of_them() -> None:
    assert dsl.summary(load(TEXT))["varies"] == {}
    assert "6 layers, width" in dsl.summary_text(load(TEXT))
