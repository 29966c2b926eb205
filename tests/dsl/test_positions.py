"""Every argument of a position reaches its field of the specification, and what is rotated is known."""

from __future__ import annotations

from dataclasses import replace
from math import log, sqrt

import pytest

from dsl_components import GQA, MLA, Cases, arguments, component
from moec.dsl import spec as m
from moec.dsl.vocabulary import CONSTRUCTS

YARN = m.Yarn(factor=4.0, original=64)
LONG = m.LongRope(short=(1.0, 2.0), long=(3.0, 4.0), original=64)
WITHOUT: dict[str, tuple[str, m.Rope]] = {
    "rope": ("rope()", m.Rope(10_000.0)),
    "linear_rope": ("linear_rope(factor: 4)", m.Rope(10_000.0, scaling=m.LinearScaling(4.0))),
    "dynamic_rope": (
        "dynamic_rope(factor: 4, original: 64)",
        m.Rope(10_000.0, scaling=m.DynamicNtk(4.0, 64)),
    ),
    "ntk_rope": ("ntk_rope(alpha: 4)", m.Rope(10_000.0, scaling=m.NtkAlpha(4.0))),
    "yarn": ("yarn(factor: 4, original: 64)", m.Rope(10_000.0, scaling=YARN)),
    "llama3_rope": (
        "llama3_rope(factor: 4, original: 64)",
        m.Rope(10_000.0, scaling=m.Llama3Scaling(4.0, 64)),
    ),
    "longrope": (
        "longrope(short: [1, 2], long: [3, 4], original: 64, dims: 4)",
        m.Rope(10_000.0, dims=4, scaling=LONG),
    ),
}
SHARED: dict[str, tuple[str, dict[str, object]]] = {  # arguments of every position
    "theta": ("theta: 5e5", {"theta": 500_000.0}),
    "dims": ("dims: 4", {"dims": 4}),
    "fraction": ("fraction: 0.25", {"dims": 4}),
    "layout": ("layout: interleaved", {"layout": "interleaved"}),
}


def _added(text: str, argument: str) -> str:
    return f"{text[:-1]}{argument})" if text.endswith("()") else f"{text[:-1]}, {argument})"


def _gqa(text: str, rope: m.Rope) -> tuple[str, m.Component]:
    return f"gqa(heads: 4, rope: {text})", replace(GQA, rope=rope)


def _shared() -> Cases:
    cases: Cases = {}
    for name, (text, rope) in WITHOUT.items():
        for argument, (written, fields) in SHARED.items():
            base = text.replace(", dims: 4", "") if argument in ("dims", "fraction") else text
            cases[name, argument] = _gqa(_added(base, written), replace(rope, **fields))  # type: ignore[arg-type]
    return cases


def _yarn(argument: str, **fields: object) -> tuple[str, m.Component]:
    scaling = replace(YARN, **fields)  # type: ignore[arg-type]
    return _gqa(f"yarn(factor: 4, original: 64, {argument})", m.Rope(10_000.0, scaling=scaling))


def _long(argument: str, **fields: object) -> tuple[str, m.Component]:
    text = "longrope(short: [1, 2], long: [3, 4], original: 64, dims: 4)"
    name = argument.split(":")[0]
    given = {"short": "short: [1, 2]", "long": "long: [3, 4]", "original": "original: 64"}
    text = text.replace(given[name], argument) if name in given else _added(text, argument)
    return _gqa(text, m.Rope(10_000.0, dims=4, scaling=replace(LONG, **fields)))  # type: ignore[arg-type]


def _llama3(text: str, scaling: m.Llama3Scaling) -> tuple[str, m.Component]:
    return _gqa(f"llama3_rope({text})", m.Rope(10_000.0, scaling=scaling))


def _dynamic(text: str, scaling: m.DynamicNtk) -> tuple[str, m.Component]:
    return _gqa(f"dynamic_rope({text})", m.Rope(10_000.0, scaling=scaling))


CASES: Cases = _shared() | {
    ("linear_rope", "factor"): _gqa(
        "linear_rope(factor: cap)", m.Rope(10_000.0, scaling=m.LinearScaling(2.5))
    ),
    ("dynamic_rope", "factor"): _dynamic("factor: 2, original: 64", m.DynamicNtk(2.0, 64)),
    ("dynamic_rope", "original"): _dynamic("factor: 4, original: 1K", m.DynamicNtk(4.0, 1024)),
    ("ntk_rope", "alpha"): _gqa("ntk_rope(alpha: 1000)", m.Rope(10_000.0, scaling=m.NtkAlpha(1000.0))),
    ("yarn", "factor"): _gqa(
        "yarn(factor: 32, original: 64)", m.Rope(10_000.0, scaling=replace(YARN, factor=32.0))
    ),
    ("yarn", "original"): _gqa(
        "yarn(factor: 4, original: 4K)", m.Rope(10_000.0, scaling=replace(YARN, original=4096))
    ),
    ("yarn", "beta_fast"): _yarn("beta_fast: 1", beta_fast=1.0),  # as beta_slow: a step, as in Kimi K2
    ("yarn", "beta_slow"): _yarn("beta_slow: 2", beta_slow=2.0),
    ("yarn", "mscale"): _yarn("mscale: 0.7, mscale_all_dim: 1", mscale=0.7, mscale_all_dim=1.0),
    ("yarn", "mscale_all_dim"): (
        "mla(heads: 4, kv_rank: 16, nope_dim: 8, rope_dim: 8, v_dim: 12, "
        "rope: yarn(factor: 4, original: 64, mscale_all_dim: 0.7))",
        replace(MLA, rope=m.Rope(10_000.0, scaling=replace(YARN, mscale_all_dim=0.7))),
    ),
    ("yarn", "magnitude"): _yarn("magnitude: 1", magnitude=1.0),
    ("yarn", "truncate"): _yarn("truncate: false", truncate=False),
    ("llama3_rope", "factor"): _llama3("factor: 8, original: 64", m.Llama3Scaling(8.0, 64)),
    ("llama3_rope", "original"): _llama3("factor: 4, original: size", m.Llama3Scaling(4.0, 48)),
    ("llama3_rope", "low_freq"): _llama3(
        "factor: 4, original: 64, low_freq: 2", m.Llama3Scaling(4.0, 64, low_freq=2.0)
    ),
    ("llama3_rope", "high_freq"): _llama3(
        "factor: 4, original: 64, high_freq: 8", m.Llama3Scaling(4.0, 64, high_freq=8.0)
    ),
    ("longrope", "short"): _long("short: [1.5, cap]", short=(1.5, 2.5)),
    ("longrope", "long"): _long("long: factors", long=(1.0, 2.0)),
    ("longrope", "original"): _long("original: 1K", original=1024),
    ("longrope", "short_mscale"): _long("short_mscale: 1.1", short_mscale=1.1),
    ("longrope", "long_mscale"): _long("long_mscale: 1.2", long_mscale=1.2),
}


@pytest.mark.parametrize(("text", "expected"), WITHOUT.values(), ids=WITHOUT)
def test_without_arguments(text: str, expected: m.Rope) -> None:
    assert component(f"gqa(heads: 4, rope: {text})") == replace(GQA, rope=expected)


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=[".".join(key) for key in CASES])
def test_argument(text: str, expected: m.Component) -> None:
    assert component(text) == expected


def test_every_argument_is_tested() -> None:
    assert CASES.keys() == arguments(x.name for x in CONSTRUCTS.values() if x.role == "position")


def test_all_dims_of_a_head_need_no_number() -> None:
    """Models that rotate everything are equal, however that is written."""
    for text in ("rope()", "rope(dims: 16)", "rope(fraction: 1)", "rope(fraction: 1.0, theta: 10_000)"):
        assert component(f"gqa(heads: 4, rope: {text})") == GQA


def test_a_fraction_is_rounded_down() -> None:
    found = component("gqa(heads: 4, head_dim: 192, rope: rope(fraction: 0.334))")
    assert isinstance(found, m.Gqa)
    assert found.rope == m.Rope(10_000.0, dims=64)


def test_positions_of_latent_attention_are_over_the_rotated_part() -> None:
    sizes = "heads: 4, kv_rank: 16, nope_dim: 30, rope_dim: 8, v_dim: 12"
    found = component(f"mla({sizes}, rope: rope(fraction: 0.5))")
    assert isinstance(found, m.Mla)
    assert found.rope == m.Rope(10_000.0, dims=4)


def test_derived_factors_written_out_are_the_defaults() -> None:
    magnitude = 0.1 * log(4.0) + 1.0
    assert component(f"gqa(heads: 4, rope: yarn(factor: 4, original: 64, magnitude: {magnitude!r}))") == (
        replace(GQA, rope=m.Rope(10_000.0, scaling=YARN))
    )
    mscale = sqrt(1 + log(4096 / 64) / log(64))
    written, expected = _long(f"long_mscale: {mscale!r}")
    assert component(written) == expected


def test_a_long_factor_of_a_model_no_longer_than_the_original_is_one() -> None:
    written, expected = _long("original: 4096", original=4096)
    assert component(written) == expected
    assert component(written[:-2] + ", short_mscale: 1))") == expected


def test_defaults_written_out_change_nothing() -> None:
    for name, (text, rope) in WITHOUT.items():
        for param in CONSTRUCTS[name].params:
            if param.default is None or param.derived or param.name == "fraction":
                continue
            written = _added(text, f"{param.name}: {param.default}")
            assert component(f"gqa(heads: 4, rope: {written})") == replace(GQA, rope=rope), written
