"""Absurd numbers in components: diagnostics, or a specification as small as that of any other model."""

from __future__ import annotations

import tracemalloc

import pytest

from dsl_texts import SMALL, edited
from moec import dsl
from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl.diagnostics import Kind

ATTENTION, ROUTER = "gqa(heads: 4, kv_heads: 2)", "softmax | top(2) | renormalize"
BYTES = 200 * 2**20
TWELVE = ", ".join(["1"] * 12_000)


def _attention(text: str) -> str:
    return edited(SMALL, ATTENTION, text)


def _moe(text: str, experts: str = "4 of swiglu(96)", router: str = ROUTER) -> str:
    return edited(edited(SMALL, f"{ROUTER}", f"{router}{text}"), "4 of swiglu(96)", experts)


def _longrope(factors: str, dims: int) -> str:
    rope = f"longrope(short: factors, long: factors, original: 64, dims: {dims})"
    text = _attention(f"gqa(heads: 1, head_dim: 65_536, rope: {rope})")
    return edited(text, "    norm ", f"    factors = [{factors}]\n    norm ")


ACCEPTED = {
    "factors for all pairs of a wide head": _longrope(", ".join(["1.5"] * 10_000), 20_000),
    "largest head": _attention("gqa(heads: 1, head_dim: 65_536, value_dim: 65_536)"),
    "largest ranks": _attention(
        "mla(heads: 1, q_rank: 1_048_576, kv_rank: 1_048_576, nope_dim: 1, rope_dim: 2, v_dim: 1)"
    ),
    "all shared experts": _moe(", shared: 65_536 of swiglu(256)"),
    "all identity experts": _moe(", identity: 65_532"),
    "all experts chosen": _moe("", "65_536 of swiglu(1)", "softmax | top(65_536)"),
    "as many groups as experts": _moe(
        "", "65_536 of swiglu(1)", "softmax | groups(65_536, keep: 65_536) | top(1)"
    ),
    "a latent of full width": _moe(", latent: 1_048_576"),
    "tiny numbers": _attention(
        "gqa(heads: 4, scale: 1e-300, softcap: 1e-300, value_scale: 1e-300, clip: 1e-300)"
    ),
    "huge theta": _attention("gqa(heads: 4, rope: yarn(theta: 1e30, factor: 1e30, original: 128M))"),
    "a window of everything": _attention("gqa(heads: 4, window: 128M)"),
}
REFUSED = {
    "list of too many factors": (_longrope(TWELVE, 24_000), c.TOO_LARGE),
    "dims beyond any head": (_attention("gqa(heads: 4, rope: rope(dims: 65_538))"), c.OUT_OF_RANGE),
    "huge dims": (_attention("gqa(heads: 4, rope: rope(dims: 1e300))"), c.OUT_OF_RANGE),
    "tiny fraction": (_attention("gqa(heads: 4, rope: rope(fraction: 1e-300))"), c.BAD_POSITION),
    "value dim": (_attention("gqa(heads: 4, value_dim: 65_537)"), c.OUT_OF_RANGE),
    "rank": (
        _attention("mla(heads: 1, kv_rank: 1_048_577, nope_dim: 1, rope_dim: 2, v_dim: 1)"),
        c.OUT_OF_RANGE,
    ),
    "shared experts": (_moe(", shared: 65_537 of swiglu(1)"), c.OUT_OF_RANGE),
    "width of shared experts": (_moe(", shared: 65_536 of swiglu(16_777_216)"), c.OUT_OF_RANGE),
    "identity experts": (_moe(", identity: 65_533"), c.OUT_OF_RANGE),
    "latent": (_moe(", latent: 1_048_577"), c.OUT_OF_RANGE),
    "iterations": (_moe("", router="softmax | sinkhorn(iterations: 1_001) | top(2)"), c.OUT_OF_RANGE),
    "groups": (_moe("", router="softmax | groups(1e12, keep: 1e12) | top(2)"), c.OUT_OF_RANGE),
    "stages": (_moe("", router="scale(2) | " * 9_000 + ROUTER), c.TOO_LARGE),
    "losses": (_moe(", balance: " + " + ".join(["z_loss(1)"] * 4_000)), c.BAD_BALANCE),
    "scale beyond floats": (_attention("gqa(heads: 4, scale: 1e300 * 1e300)"), c.OUT_OF_RANGE),
    "offset beyond floats": (_moe("", "4 of swiglu(96, offset: -1e300 * 1e300)"), c.OUT_OF_RANGE),
    "scale of nothing": (_attention("gqa(heads: 4, scale: 1e-300 / 1e300)"), c.OUT_OF_RANGE),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", ACCEPTED.values(), ids=ACCEPTED)
def test_the_largest_legal_numbers_take_no_room(text: str) -> None:
    tracemalloc.start()
    try:
        spec = dsl.load_text(text)
        dsl.explicit_text(spec)
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.timeout(60)
@pytest.mark.parametrize(("text", "kind"), REFUSED.values(), ids=REFUSED)
def test_beyond_them_the_answer_is_a_diagnostic(text: str, kind: Kind) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(dsl.SourceErrors) as caught:
            dsl.load_text(text)
        assert kind.code in {found.code for found in caught.value.diagnostics}
        assert len(caught.value.diagnostics) <= limits.DIAGNOSTICS
        assert tracemalloc.get_traced_memory()[1] < BYTES
    finally:
        tracemalloc.stop()
