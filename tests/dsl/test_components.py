"""Every argument of norms, attention and feed-forward networks reaches its field of the specification."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

import pytest

from dsl_components import GQA, MLA, NORM, SWIGLU, Cases, arguments, component
from moec.dsl import spec as m
from moec.dsl.vocabulary import CONSTRUCTS

LAYER_NORM = m.LayerNorm(1e-5)
GEGLU = m.Ffn(96, "gelu_tanh")
MLP = m.Ffn(96, "gelu", gated=False)
WITHOUT: dict[str, tuple[str, m.Component]] = {
    "rms_norm": ("rms_norm()", NORM),
    "layer_norm": ("layer_norm()", LAYER_NORM),
    "swiglu": ("swiglu(96)", SWIGLU),
    "geglu": ("geglu(96)", GEGLU),
    "mlp": ("mlp(96)", MLP),
    "gqa": ("gqa(heads: 4)", GQA),
    "mla": ("mla(heads: 4, kv_rank: 16, nope_dim: 8, rope_dim: 8, v_dim: 12)", MLA),
}


def _with(attend: m.Attend) -> m.Gqa:
    return replace(GQA, attend=attend)


def _latent(attend: m.Attend) -> m.Mla:
    return replace(MLA, attend=attend)


def _gate(text: str) -> str:
    return f"gqa(heads: 4, gate: {text})"


MLA_SIZES = "heads: 4, kv_rank: 16, nope_dim: 8, rope_dim: 8, v_dim: 12"
HEAT = "log_temperature(scale: 0.1, period: 64)"
HOT = m.LogTemperature(scale=0.1, period=64)

NETWORKS: Cases = {
    ("rms_norm", "eps"): ("rms_norm(eps: 0.5)", m.RmsNorm(0.5)),
    ("rms_norm", "weight"): ("rms_norm(weight: offset)", m.RmsNorm(1e-6, "offset")),
    ("layer_norm", "eps"): ("layer_norm(eps: 1e-3)", m.LayerNorm(1e-3)),
    ("layer_norm", "weight"): ("layer_norm(weight: none)", m.LayerNorm(1e-5, "none")),
    ("layer_norm", "bias"): ("layer_norm(bias: false)", m.LayerNorm(1e-5, bias=False)),
    ("swiglu", "width"): ("swiglu(width: size)", m.Ffn(48)),
    ("swiglu", "bias"): ("swiglu(96, bias: true)", m.Ffn(96, bias=True)),
    ("swiglu", "clamp"): ("swiglu(96, clamp: 7)", m.Ffn(96, clamp=7.0)),
    ("swiglu", "clamp_after"): ("swiglu(96, clamp_after: cap)", m.Ffn(96, clamp_after=2.5)),
    ("swiglu", "alpha"): ("swiglu(96, alpha: 1.702)", m.Ffn(96, alpha=1.702)),
    ("swiglu", "offset"): ("swiglu(96, offset: -1)", m.Ffn(96, offset=-1.0)),
    ("geglu", "width"): ("geglu(2 * size)", GEGLU),
    ("geglu", "bias"): ("geglu(96, bias: true)", replace(GEGLU, bias=True)),
    ("geglu", "clamp"): ("geglu(96, clamp: 0.5)", replace(GEGLU, clamp=0.5)),
    ("geglu", "clamp_after"): ("geglu(96, clamp_after: 0.5)", replace(GEGLU, clamp_after=0.5)),
    ("geglu", "offset"): ("geglu(96, offset: 1)", replace(GEGLU, offset=1.0)),
    ("mlp", "width"): ("mlp(8 * sqrt(width))", replace(MLP, width=64)),
    ("mlp", "act"): ("mlp(96, act: relu2)", m.Ffn(96, "relu2", gated=False)),
    ("mlp", "bias"): ("mlp(96, bias: true)", replace(MLP, bias=True)),
}
ATTENTION: Cases = {
    ("gqa", "heads"): ("gqa(heads: 8)", m.Gqa(8, 8, 8, 8, m.Rope(10_000.0))),
    ("gqa", "kv_heads"): ("gqa(heads: 4, kv_heads: 2)", replace(GQA, kv_heads=2)),
    ("gqa", "head_dim"): ("gqa(heads: 4, head_dim: 24)", replace(GQA, head_dim=24, value_dim=24)),
    ("gqa", "value_dim"): ("gqa(heads: 4, value_dim: 7)", replace(GQA, value_dim=7)),
    ("gqa", "rope"): ("gqa(heads: 4, head_dim: 7, rope: none)", m.Gqa(4, 4, 7, 7, None)),
    ("gqa", "qkv_bias"): ("gqa(heads: 4, qkv_bias: true)", replace(GQA, qkv_bias=True)),
    ("gqa", "out_bias"): ("gqa(heads: 4, out_bias: true)", replace(GQA, out_bias=True)),
    ("gqa", "qk_norm"): (
        "gqa(heads: 4, qk_norm: per_head(rms_norm(eps: 0.1)))",
        replace(GQA, qk_norm=m.QkNorm(m.RmsNorm(0.1), "head")),
    ),
    ("gqa", "clip"): ("gqa(heads: 4, clip: 8)", replace(GQA, clip=8.0)),
    ("gqa", "value_scale"): ("gqa(heads: 4, value_scale: 0.7)", replace(GQA, value_scale=0.7)),
    ("gqa", "window"): ("gqa(heads: 4, window: 1K)", _with(m.Attend(window=1024))),
    ("gqa", "chunk"): ("gqa(heads: 4, chunk: size)", _with(m.Attend(chunk=48))),
    ("gqa", "sinks"): ("gqa(heads: 4, sinks: true)", _with(m.Attend(sinks=True))),
    ("gqa", "softcap"): ("gqa(heads: 4, softcap: 50)", _with(m.Attend(softcap=50.0))),
    ("gqa", "temperature"): (f"gqa(heads: 4, temperature: {HEAT})", _with(m.Attend(temperature=HOT))),
    ("gqa", "scale"): ("gqa(heads: 4, scale: 1 / 64)", _with(m.Attend(scale=1 / 64))),
    ("gqa", "gate"): (_gate("head_gate"), _with(m.Attend(gate=m.OutputGate("head")))),
    ("mla", "heads"): (f"mla({MLA_SIZES.replace('heads: 4', 'heads: 6')})", replace(MLA, heads=6)),
    ("mla", "q_rank"): (f"mla({MLA_SIZES}, q_rank: 24)", replace(MLA, q_rank=24)),
    ("mla", "kv_rank"): (f"mla({MLA_SIZES.replace('kv_rank: 16', 'kv_rank: 3')})", replace(MLA, kv_rank=3)),
    ("mla", "nope_dim"): (
        f"mla({MLA_SIZES.replace('nope_dim: 8', 'nope_dim: 5')})",
        replace(MLA, nope_dim=5),
    ),
    ("mla", "rope_dim"): (
        f"mla({MLA_SIZES.replace('rope_dim: 8', 'rope_dim: 6')})",
        replace(MLA, rope_dim=6),
    ),
    ("mla", "v_dim"): (f"mla({MLA_SIZES.replace('v_dim: 12', 'v_dim: 1')})", replace(MLA, value_dim=1)),
    ("mla", "rope"): (
        f"mla({MLA_SIZES}, rope: rope(dims: 4, layout: interleaved))",
        replace(MLA, rope=m.Rope(10_000.0, 4, "interleaved")),
    ),
    ("mla", "norm"): (f"mla({MLA_SIZES}, norm: named)", replace(MLA, norm=m.LayerNorm(0.5))),
    ("mla", "bias"): (f"mla({MLA_SIZES}, bias: true)", replace(MLA, bias=True)),
    ("mla", "latent_scale"): (f"mla({MLA_SIZES}, latent_scale: true)", replace(MLA, latent_scale=True)),
    ("mla", "window"): (f"mla({MLA_SIZES}, window: 8)", _latent(m.Attend(window=8))),
    ("mla", "chunk"): (f"mla({MLA_SIZES}, chunk: 8)", _latent(m.Attend(chunk=8))),
    ("mla", "sinks"): (f"mla({MLA_SIZES}, sinks: true)", _latent(m.Attend(sinks=True))),
    ("mla", "softcap"): (f"mla({MLA_SIZES}, softcap: cap)", _latent(m.Attend(softcap=2.5))),
    ("mla", "temperature"): (f"mla({MLA_SIZES}, temperature: {HEAT})", _latent(m.Attend(temperature=HOT))),
    ("mla", "scale"): (f"mla({MLA_SIZES}, scale: 0.125)", _latent(m.Attend(scale=0.125))),
    ("mla", "gate"): (
        f"mla({MLA_SIZES}, gate: element_gate)",
        _latent(m.Attend(gate=m.OutputGate("element"))),
    ),
}
PARTS: Cases = {
    ("per_head", "norm"): (
        "gqa(heads: 4, qk_norm: per_head(named))",
        replace(GQA, qk_norm=m.QkNorm(m.LayerNorm(0.5), "head")),
    ),
    ("per_head", "after_rope"): (
        "gqa(heads: 4, qk_norm: per_head(named, after_rope: true))",
        replace(GQA, qk_norm=m.QkNorm(m.LayerNorm(0.5), "head", after_rope=True)),
    ),
    ("full_width", "norm"): (
        "gqa(heads: 4, qk_norm: full_width(rms_norm))",
        replace(GQA, qk_norm=m.QkNorm(m.RmsNorm(1e-6), "full")),
    ),
    ("element_gate", "act"): (
        _gate("element_gate(act: softplus)"),
        _with(m.Attend(gate=m.OutputGate("element", "softplus"))),
    ),
    ("element_gate", "bias"): (
        _gate("element_gate(bias: true)"),
        _with(m.Attend(gate=m.OutputGate("element", bias=True))),
    ),
    ("head_gate", "act"): (
        _gate("head_gate(act: softplus)"),
        _with(m.Attend(gate=m.OutputGate("head", "softplus"))),
    ),
    ("head_gate", "bias"): (
        _gate("head_gate(bias: true)"),
        _with(m.Attend(gate=m.OutputGate("head", bias=True))),
    ),
    ("log_temperature", "scale"): (
        "gqa(heads: 4, temperature: log_temperature(scale: 0.2, period: 64))",
        _with(m.Attend(temperature=m.LogTemperature(0.2, 64))),
    ),
    ("log_temperature", "period"): (
        "gqa(heads: 4, temperature: log_temperature(scale: 0.1, period: 8K))",
        _with(m.Attend(temperature=m.LogTemperature(0.1, 8192))),
    ),
    ("log_temperature", "offset"): (
        "gqa(heads: 4, temperature: log_temperature(scale: 0.1, period: 64, offset: 0))",
        _with(m.Attend(temperature=m.LogTemperature(0.1, 64, 0))),
    ),
}
CASES = NETWORKS | ATTENTION | PARTS


@pytest.mark.parametrize(("text", "expected"), WITHOUT.values(), ids=WITHOUT)
def test_without_arguments(text: str, expected: m.Component) -> None:
    assert component(text) == expected


@pytest.mark.parametrize(("text", "expected"), CASES.values(), ids=[".".join(key) for key in CASES])
def test_argument(text: str, expected: m.Component) -> None:
    assert component(text) == expected


def test_every_argument_is_tested() -> None:
    others = (x.name for x in CONSTRUCTS.values() if x.role in ("qk_norm", "gate", "temperature"))
    assert CASES.keys() == arguments([*WITHOUT, *others])


def test_every_argument_changes_the_component() -> None:
    """No argument is read and forgotten: each case differs from the construct without it."""
    plain = [expected for _, expected in WITHOUT.values()]
    for (construct, argument), (text, expected) in CASES.items():
        if (construct, argument) != ("geglu", "width"):  # given by a product that makes it what it was
            assert expected not in plain, text


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh", "relu", "relu2"])
def test_activations_of_a_network_without_gate(act: m.Activation) -> None:
    assert component(f"mlp(96, act: {act})") == m.Ffn(96, act, gated=False)


@pytest.mark.parametrize("weight", ["scale", "offset", "none"])
def test_weights_of_norms(weight: m.NormWeight) -> None:
    assert component(f"rms_norm(weight: {weight})") == m.RmsNorm(1e-6, weight)
    assert component(f"layer_norm(weight: {weight})") == m.LayerNorm(1e-5, weight)


@pytest.mark.parametrize("head_dim", [16, 24, 80, 96, 128])
def test_the_default_scale_written_out_is_the_default(head_dim: int) -> None:
    """So that the text with every default means the same, though the root is no short decimal."""
    for scale in (f"1 / sqrt({head_dim})", repr(1 / sqrt(head_dim))):
        found = component(f"gqa(heads: 4, head_dim: {head_dim}, scale: {scale})")
        assert found == replace(GQA, head_dim=head_dim, value_dim=head_dim)
    assert component(f"mla({MLA_SIZES}, scale: 1 / 4)") == MLA


def test_a_default_written_out_changes_nothing() -> None:
    """Every default of the tables means what leaving the argument out means."""
    for name, (text, expected) in WITHOUT.items():
        for param in CONSTRUCTS[name].params:
            if param.default is not None and not param.derived:
                inside = f"{param.name}: {param.default})"
                written = text[:-1] + (inside if text.endswith("()") else ", " + inside)
                assert component(written) == expected, written
