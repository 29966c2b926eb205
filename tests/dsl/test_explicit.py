"""Every default written out: the text means the same, holds all there is, and is explicit already."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import HealthCheck, given, settings

import dsl_generated as generated
from dsl_texts import SMALL, edited, load, tree
from moec import dsl
from moec.dsl import syntax as s
from moec.dsl.trees import walk
from moec.dsl.vocabulary import CONSTRUCTS

ATTENTION = "gqa(heads: 4, kv_heads: 2)"


def _explicit(text: str) -> str:
    return dsl.explicit_text(load(text))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(generated.models())
def test_an_explicit_text_means_the_same(text: str) -> None:
    spec = load(text)
    written = dsl.explicit_text(spec)
    again = load(written)
    assert again.model == spec.model
    assert (again.train, again.parallel) == (spec.train, spec.parallel)
    assert dsl.explicit_text(again) == written
    assert load(dsl.format_text(text)).model == spec.model
    _check_complete(written)


def _check_complete(text: str) -> None:
    """Nothing is absent but what follows from a match, or what another argument says."""
    model = tree(text).block("model")
    assert model is not None
    calls = [one for x in model.settings() for one in walk(x.value) if isinstance(one, s.Invoke)]
    for call in (call for call in calls if call.name in CONSTRUCTS):
        params = CONSTRUCTS[call.name].params
        names = {argument.name or params[0].name for argument in call.arguments}
        absent = {p.name for p in params if not p.derived and not p.rival} - names
        assert not absent, f"{call.name} lacks {absent}"


DERIVED = [
    (ATTENTION, "head_dim: 16"),
    ("gqa(heads: 4)", "kv_heads:  4"),
    ("gqa(heads: n)", "kv_heads:  n"),
    ("gqa(heads: 4, head_dim: 24)", "value_dim: 24"),
    (ATTENTION, "scale:     1 / 4"),
    ("gqa(heads: 4, head_dim: 24)", "scale:     1 / sqrt(24)"),
    ("gqa(heads: 4, head_dim: 24)", "dims: 24"),
    ("gqa(heads: 4, rope: rope(fraction: 0.5))", "fraction: 0.5"),
    ("gqa(heads: 4, rope: yarn(factor: 1, original: 64))", "magnitude: 1.0"),
    ("gqa(heads: 4, rope: yarn(factor: 2, original: 64, mscale: 1, mscale_all_dim: 1))", "mscale: 1"),
    ("mla(heads: 4, kv_rank: 8, nope_dim: 8, rope_dim: 8, v_dim: 8)", "scale:        1 / 4"),
    ("mla(heads: 4, kv_rank: 8, nope_dim: 24, rope_dim: 8, v_dim: 8)", "dims: 8"),
]


@pytest.mark.parametrize(("attention", "expected"), DERIVED)
def test_derived_defaults(attention: str, expected: str) -> None:
    text = edited(edited(SMALL, ATTENTION, attention), "    norm ", "    n = 8\n    norm ")
    squeezed = " ".join(_explicit(text).split())
    assert " ".join(expected.split()) in squeezed


def test_what_a_match_decides_is_not_written_a_second_time() -> None:
    text = edited(SMALL, ATTENTION, "gqa(heads: match layer { 0 => 4, _ => 8 }, head_dim: 16)")
    written = _explicit(text)
    assert written.count("match layer") == 1
    assert "kv_heads" not in written
    assert "value_dim" in written
    assert load(written).model == load(text).model


def test_derived_factors_of_longrope_are_written_exactly() -> None:
    factors = f"[{', '.join(['1'] * 8)}]"
    rope = f"longrope(short: {factors}, long: {factors}, original: 64)"
    written = _explicit(edited(SMALL, ATTENTION, f"gqa(heads: 4, rope: {rope})"))
    assert f"{sqrt(1 + 1 / 6)!r}" in written  # ln(128 / 64) / ln(64)


def test_patterns_and_ends_are_written_out() -> None:
    text = edited(SMALL, "experts(norm(x))", "match layer { every(2) => experts, _ => experts }(norm(x))")
    written = _explicit(text)
    assert "every(2, offset: 1)" in written
    assert "x = embed(tokens)" in written.replace("         =", " =")
    assert "linear(norm(x), tied: false, bias: false)" in written


def test_a_bound_name_is_no_call() -> None:
    """A binding may have the name of a construct; where it is used, it stays a name."""
    text = edited(SMALL, "norm      = rms_norm", "rms_norm  = rms_norm").replace("norm(x)", "rms_norm(x)")
    text = edited(text, ATTENTION, "gqa(heads: 4, qk_norm: per_head(rms_norm))")
    assert "per_head(rms_norm, after_rope: false)" in _explicit(text)
    assert load(_explicit(text)).model == load(text).model


def test_words_that_are_names_of_constructs_stay_words() -> None:
    text = edited(SMALL, "eps: 1e-5", "weight: scale")
    assert "rms_norm(eps: 1e-6, weight: scale)" in _explicit(text)
