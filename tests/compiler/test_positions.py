"""Frequencies and magnitudes of rotary positions are those of transformers, kind by kind."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from moec.compiler.build.positions import Rotation, rotation, score_factor
from moec.compiler.errors import CompileError
from moec.dsl.spec import (
    DynamicNtk,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    NtkAlpha,
    Origin,
    Rope,
    RopeScaling,
    Yarn,
)

HEAD_DIM, CONTEXT = 32, 4096
SHORT, LONG = [tuple(1 + i * step for i in range(16)) for step in (0.05, 2.5)]
SINGLE = 4e-6
"""transformers computes in float32: theta^(-2 i / d) errs by ln(theta) of its roundings, some of 6e-8."""


def of_transformers(theta: float, fraction: float, sequence: int, parameters: dict[str, Any]) -> Rotation:
    """Its numbers for sequences of one length, in a model for CONTEXT tokens."""
    shape = {"rope_theta": theta, "partial_rotary_factor": fraction, **parameters}
    context = parameters.get("context", CONTEXT)
    config = LlamaConfig(
        hidden_size=4 * HEAD_DIM,
        num_attention_heads=4,
        head_dim=HEAD_DIM,
        max_position_embeddings=context,
        rope_parameters={name: value for name, value in shape.items() if name != "context"},
    )
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, None, sequence)
    return Rotation(tuple(frequencies.tolist()), float(magnitude))


def yarn(**options: Any) -> dict[str, Any]:
    return {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 256, **options}


def longrope(**options: Any) -> dict[str, Any]:
    factors = {"short_factor": list(SHORT), "long_factor": list(LONG)}
    return {"rope_type": "longrope", "original_max_position_embeddings": 512, **factors, **options}


def llama3(low: float, high: float) -> dict[str, Any]:
    ends = {"low_freq_factor": low, "high_freq_factor": high}
    return {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 512, **ends}


PEERS: dict[str, tuple[RopeScaling, dict[str, Any]]] = {
    "linear": (LinearScaling(4.0), {"rope_type": "linear", "factor": 4.0}),
    "dynamic": (DynamicNtk(3.0, 64), {"rope_type": "dynamic", "factor": 3.0, "context": 64}),
    "yarn": (Yarn(16.0, 256), yarn()),
    "yarn with betas": (Yarn(16.0, 256, 20.0, 2.0), yarn(beta_fast=20.0, beta_slow=2.0)),
    "yarn not truncated": (Yarn(16.0, 256, truncate=False), yarn(truncate=False)),
    "yarn with mscale alone": (Yarn(16.0, 256, mscale=0.7), yarn(mscale=0.7)),
    "yarn with both mscales": (
        Yarn(16.0, 256, mscale=0.7, mscale_all_dim=1.2),
        yarn(mscale=0.7, mscale_all_dim=1.2),
    ),
    "yarn with a magnitude": (Yarn(16.0, 256, magnitude=1.5), yarn(attention_factor=1.5)),
    "yarn of no longer a context": (Yarn(1.0, 256), yarn(factor=1.0)),
    "yarn within one pair": (Yarn(2.0, 8, 1.1, 1.0), yarn(factor=2.0, beta_fast=1.1, beta_slow=1.0)
        | {"original_max_position_embeddings": 8}),
    "yarn with a step": (Yarn(16.0, 256, 1.0, 1.0), yarn(beta_fast=1.0, beta_slow=1.0)),
    "llama3": (Llama3Scaling(8.0, 512, 1.0, 4.0), llama3(1.0, 4.0)),
    "llama3 without a ramp": (Llama3Scaling(8.0, 512, 3.0, 3.0), llama3(3.0, 3.0)),
    "longrope": (LongRope(SHORT, LONG, 512), longrope()),
    "longrope of a short context": (LongRope(SHORT, LONG, 512), longrope(context=512)),
    "longrope with a magnitude": (
        LongRope(SHORT, LONG, 512, 1.25, 1.25),
        longrope(attention_factor=1.25),
    ),
}  # fmt: skip


@pytest.mark.parametrize("theta", [10_000.0, 1_000_000.0])
@pytest.mark.parametrize("sequence", [16, 64, 65, 512, 513, 4000])
@pytest.mark.parametrize("name", PEERS)
def test_rotation_is_that_of_transformers(name: str, sequence: int, theta: float) -> None:
    """On both sides of every length that something depends on."""
    scaling, parameters = PEERS[name]
    expected = of_transformers(theta, 1.0, sequence, parameters)
    found = rotation(Rope(theta, scaling=scaling), HEAD_DIM, sequence, parameters.get("context", CONTEXT))
    assert found.frequencies == pytest.approx(expected.frequencies, rel=SINGLE)
    assert found.magnitude == pytest.approx(expected.magnitude, rel=1e-12)


@pytest.mark.parametrize("name", [name for name in PEERS if "longrope" not in name])
def test_rotation_of_a_part_of_the_head(name: str) -> None:
    scaling, parameters = PEERS[name]
    expected = of_transformers(5e5, 0.5, 300, parameters)
    rope = Rope(5e5, HEAD_DIM // 2, scaling=scaling)
    found = rotation(rope, HEAD_DIM // 2, 300, parameters.get("context", CONTEXT))
    assert found.frequencies == pytest.approx(expected.frequencies, rel=SINGLE)


def test_without_scaling_frequencies_are_powers_of_theta() -> None:
    found = rotation(Rope(100.0), 4, 10, 20)
    assert found == Rotation((1.0, 0.1), 1.0)


def test_ntk_alpha_is_dynamic_growth_that_is_always_there() -> None:
    """HunYuan: theta * alpha^(d / (d - 2)), the d / 2 - 1 th frequency divided by alpha."""
    plain, scaled = (rotation(Rope(1e4, scaling=s), 32, 10, 20) for s in (None, NtkAlpha(7.0)))
    assert scaled.frequencies == rotation(Rope(1e4 * 7.0 ** (32 / 30)), 32, 10, 20).frequencies
    assert scaled.frequencies[0] == plain.frequencies[0]
    assert scaled.frequencies[-1] == pytest.approx(plain.frequencies[-1] / 7.0)


def test_one_pair_of_dims_grows_by_nothing() -> None:
    """Its frequency is theta^0, whatever theta is."""
    for scaling in (NtkAlpha(3.0), DynamicNtk(2.0, 4)):
        assert rotation(Rope(1e4, scaling=scaling), 2, 10, 20).frequencies == (1.0,)


def test_longrope_takes_the_mscale_of_its_length() -> None:
    rope = Rope(1e4, scaling=LongRope(SHORT, LONG, 512, 1.5, 2.5))
    assert rotation(rope, HEAD_DIM, 512, CONTEXT).magnitude == 1.5
    assert rotation(rope, HEAD_DIM, 513, CONTEXT).magnitude == 2.5


@pytest.mark.parametrize(("factor", "weight"), [(40.0, 1.0), (16.0, 0.5), (1.0, 3.0)])
def test_latent_attention_multiplies_scores_by_the_square(factor: float, weight: float) -> None:
    """As `DeepseekV3Attention.scaling`, which knows no logarithm of a factor that makes nothing longer."""
    mscale = 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
    assert score_factor(Rope(1e4, scaling=Yarn(factor, 64, mscale_all_dim=weight))) == mscale * mscale


def test_other_positions_leave_scores_as_they_are() -> None:
    for rope in (None, Rope(1e4), Rope(1e4, scaling=Yarn(16.0, 64)), Rope(1e4, scaling=LinearScaling(2.0))):
        assert score_factor(rope) == 1.0


@given(theta=st.floats(2.0, 1e7), factor=st.floats(1.0, 64.0), original=st.integers(8, 1 << 17))
def test_yarn_and_llama3_lie_between_plain_and_divided(theta: float, factor: float, original: int) -> None:
    plain = rotation(Rope(theta), HEAD_DIM, 10, 20).frequencies
    for scaling in (Yarn(factor, original), Llama3Scaling(factor, original)):
        found = rotation(Rope(theta, scaling=scaling), HEAD_DIM, 10, 20).frequencies
        for one, whole in zip(found, plain, strict=True):
            assert whole / factor * (1 - 1e-12) <= one <= whole * (1 + 1e-12)


@pytest.mark.parametrize(
    "scaling",
    [
        NtkAlpha(1e300),
        LongRope((0.0,) * 16, LONG, 512),
        LongRope(SHORT[:3], LONG, 512),
        LongRope(SHORT, LONG, 1),
        LinearScaling(0.0),
        LinearScaling(math.nan),
    ],
    ids=repr,
)
def test_numbers_without_frequencies_are_refused_at_their_line(scaling: RopeScaling) -> None:
    rope = Rope(1e300, scaling=scaling, origin=Origin("a.moe", 3, "rope: ..."))
    with pytest.raises(CompileError, match="these positions have") as refused:
        rotation(rope, HEAD_DIM, 16, CONTEXT)
    assert refused.value.origin == rope.origin


def test_yarn_of_a_theta_of_one_is_refused() -> None:
    """All its frequencies are equal: there is nothing to ramp over."""
    with pytest.raises(CompileError):
        rotation(replace(Rope(1.0), scaling=Yarn(4.0, 64)), HEAD_DIM, 16, CONTEXT)
