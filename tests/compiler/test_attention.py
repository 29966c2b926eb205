"""Every option of attention and of norms means what the specification says, gradients included.

Each is compared with plain formulas on whole matrices, written from the words of `dsl/spec/components.py`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from moec.compiler.build.model import Shape, build
from moec.compiler.build.positions import rotation
from moec.compiler.graph import ReferenceRegion, run, value
from moec.dsl.spec import (
    Attend,
    Call,
    Component,
    Equation,
    Gqa,
    Layer,
    LayerNorm,
    LinearScaling,
    LogTemperature,
    LongRope,
    Mla,
    ModelSpec,
    Norm,
    OutputGate,
    QkNorm,
    RmsNorm,
    Rope,
    Var,
    Yarn,
)
from small_models import small_spec

BATCH, LENGTH, WIDTH, CONTEXT = 2, 7, 12, 64
TOLERANCE = 1e-10
Weights = dict[str, Tensor]

ROPE = Rope(50.0)
SCALE, OFFSET, NONE = RmsNorm(1e-3), RmsNorm(1e-3, "offset"), RmsNorm(1e-3, "none")
GQA = Gqa(heads=4, kv_heads=2, head_dim=6, value_dim=6, rope=ROPE)
MLA = Mla(heads=3, q_rank=8, kv_rank=7, nope_dim=6, rope_dim=4, value_dim=6, rope=ROPE, norm=RmsNorm(1e-6))

NORMS: dict[str, Norm] = {
    "rms": SCALE,
    "rms, 1 + w": OFFSET,
    "rms, no weight": NONE,
    "layer": LayerNorm(1e-3),
    "layer, no bias": LayerNorm(1e-3, bias=False),
    "layer, 1 + w": LayerNorm(1e-3, "offset"),
    "layer, bias alone": LayerNorm(1e-3, "none"),
    "layer, nothing": LayerNorm(1e-3, "none", bias=False),
}

ATTENDS: dict[str, Attend] = {
    "plain": Attend(),
    "window": Attend(window=3),
    "chunk": Attend(chunk=3),
    "window in chunks": Attend(window=2, chunk=4),
    "sinks": Attend(sinks=True),
    "softcap": Attend(softcap=0.3),
    "sinks, softcap, window": Attend(sinks=True, softcap=0.3, window=3),
    "scale": Attend(scale=0.11),
    "temperature": Attend(temperature=LogTemperature(0.4, 2)),
    "temperature from 0": Attend(temperature=LogTemperature(0.4, 3, offset=0)),
    "element gate": Attend(gate=OutputGate("element")),
    "head gate": Attend(gate=OutputGate("head", bias=True)),
    "softplus gate": Attend(gate=OutputGate("element", "softplus", bias=True)),
    "softplus gate of heads": Attend(gate=OutputGate("head", "softplus")),
}

GQAS: dict[str, Gqa] = {
    **{name: replace(GQA, attend=attend) for name, attend in ATTENDS.items()},
    "no rope": replace(GQA, rope=None),
    "part of the head": replace(GQA, rope=Rope(50.0, dims=4)),
    "interleaved": replace(GQA, rope=Rope(50.0, layout="interleaved")),
    "interleaved part": replace(GQA, rope=Rope(50.0, dims=2, layout="interleaved")),
    "linear": replace(GQA, rope=Rope(50.0, scaling=LinearScaling(3.0))),
    "yarn": replace(GQA, rope=Rope(50.0, scaling=Yarn(4.0, 16))),
    "yarn keeps its scores": replace(GQA, rope=Rope(50.0, scaling=Yarn(4.0, 16, mscale_all_dim=0.7))),
    "long": replace(GQA, rope=Rope(50.0, scaling=LongRope((1.0, 1.1, 1.2), (2.0, 3.0, 4.0), 6))),
    "narrow values": replace(GQA, value_dim=3),
    "wide values": replace(GQA, value_dim=8, attend=ATTENDS["element gate"]),
    "values of other size": replace(GQA, value_scale=0.7),
    "biases": replace(GQA, qkv_bias=True, out_bias=True),
    "clip": replace(GQA, clip=0.2, qkv_bias=True, value_scale=1.5),
    "norm of heads": replace(GQA, qk_norm=QkNorm(SCALE, "head")),
    "norm of heads, 1 + w": replace(GQA, qk_norm=QkNorm(OFFSET, "head")),
    "norm after rope": replace(GQA, qk_norm=QkNorm(SCALE, "head", after_rope=True)),
    "bare norm after rope": replace(GQA, qk_norm=QkNorm(NONE, "head", after_rope=True)),
    "norm of the width": replace(GQA, qk_norm=QkNorm(SCALE, "full")),
    "norm of the width, clip": replace(GQA, qk_norm=QkNorm(SCALE, "full"), clip=0.8),
    "layer norm of heads": replace(GQA, qk_norm=QkNorm(LayerNorm(1e-3), "head")),
}

MLAS: dict[str, Mla] = {
    **{name: replace(MLA, attend=attend) for name, attend in ATTENDS.items()},
    "no latent of queries": replace(MLA, q_rank=None),
    "narrow values": replace(MLA, value_dim=5),
    "wide values": replace(MLA, value_dim=13),
    "biases": replace(MLA, bias=True),
    "no rope": replace(MLA, rope=None),
    "interleaved": replace(MLA, rope=Rope(50.0, layout="interleaved")),
    "yarn": replace(MLA, rope=Rope(50.0, scaling=Yarn(4.0, 16, mscale=1.0, mscale_all_dim=0.7))),
    "yarn and scale": replace(
        MLA, rope=Rope(50.0, scaling=Yarn(4.0, 16, mscale_all_dim=0.7)), attend=Attend(scale=0.2)
    ),
    "scaled latents": replace(MLA, latent_scale=True),
    "scaled latent of keys": replace(MLA, latent_scale=True, q_rank=None),
    "layer norm of latents": replace(MLA, norm=LayerNorm(1e-3)),
}


# --- what they mean ---


def normed(norm: Norm, x: Tensor, weights: Weights, path: str) -> Tensor:
    if isinstance(norm, LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt()
    if norm.weight != "none":
        x = x * (weights[path] + (1.0 if norm.weight == "offset" else 0.0))
    return x + weights[f"{path}_bias"] if isinstance(norm, LayerNorm) and norm.bias else x


def projected(x: Tensor, weights: Weights, name: str) -> Tensor:
    y = x @ weights[name].T
    return y + weights[f"{name}_bias"] if f"{name}_bias" in weights else y


def rotated(x: Tensor, rope: Rope | None) -> Tensor:
    """(S, heads, d): by a matrix of 2 x 2 rotations for every position."""
    if rope is None:
        return x
    turn = rotation(rope, rope.dims or x.shape[-1], LENGTH, CONTEXT)
    pairs = len(turn.frequencies)
    rows = []
    for position in range(LENGTH):
        matrix = torch.eye(x.shape[-1], dtype=x.dtype)
        for i, frequency in enumerate(turn.frequencies):
            a, b = (2 * i, 2 * i + 1) if rope.layout == "interleaved" else (i, i + pairs)
            cos, sin = (turn.magnitude * f(position * frequency) for f in (math.cos, math.sin))
            matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = cos, -sin, sin, cos
        rows.append(x[position] @ matrix.T)
    return torch.stack(rows)


def attended(
    attend: Attend, x: Tensor, q: Tensor, k: Tensor, v: Tensor, scale: float, weights: Weights
) -> Tensor:
    """One sequence: x (S, D), q (S, H, d), k (S, h, d), v (S, h, c) -> (S, H * c), head by head."""
    heads, out = q.shape[1], []
    for head in range(heads):
        key = head // (heads // k.shape[1])
        queries = q[:, head]
        if attend.temperature is not None:
            t = attend.temperature
            factors = [1 + t.scale * math.log(1 + (p + t.offset) // t.period) for p in range(LENGTH)]
            queries = queries * torch.tensor(factors, dtype=x.dtype)[:, None]
        scores = queries @ k[:, key].T * scale
        if attend.softcap is not None:
            scores = attend.softcap * torch.tanh(scores / attend.softcap)
        powers = scores.exp() * seen(attend)
        total = powers.sum(-1, keepdim=True)
        if attend.sinks:
            total = total + weights["sinks"][head].exp()
        out.append(powers / total @ v[:, key])
    y = torch.stack(out, 1)
    if attend.gate is not None:
        gate = projected(x, weights, "gate").view(LENGTH, heads, -1)
        y = y * (torch.sigmoid(gate) if attend.gate.act == "sigmoid" else (1 + gate.exp()).log())
    return y.flatten(1)


def seen(attend: Attend) -> Tensor:
    """(S, S) of ones and zeros."""

    def sees(i: int, j: int) -> bool:
        near = attend.window is None or i - j < attend.window
        return j <= i and near and (attend.chunk is None or i // attend.chunk == j // attend.chunk)

    return torch.tensor([[float(sees(i, j)) for j in range(LENGTH)] for i in range(LENGTH)]).double()


def plain_gqa(gqa: Gqa, x: Tensor, weights: Weights) -> Tensor:
    """One sequence, (S, D) -> (S, D)."""

    def part(name: str, dims: int) -> Tensor:
        norm = gqa.qk_norm if name != "v" else None
        y = projected(x, weights, name)
        if norm is not None and norm.over == "full":
            y = normed(norm.norm, y, weights, f"{name}_norm")
        if gqa.clip is not None:
            y = y.clamp(-gqa.clip, gqa.clip)
        y = y.view(LENGTH, -1, dims)
        if name == "v":
            return y * gqa.value_scale
        if norm is not None and norm.over == "head" and not norm.after_rope:
            y = normed(norm.norm, y, weights, f"{name}_norm")
        y = rotated(y, gqa.rope)
        return normed(norm.norm, y, weights, f"{name}_norm") if norm is not None and norm.after_rope else y

    q, k, v = part("q", gqa.head_dim), part("k", gqa.head_dim), part("v", gqa.value_dim)
    scale = gqa.attend.scale or 1 / math.sqrt(gqa.head_dim)
    return projected(attended(gqa.attend, x, q, k, v, scale, weights), weights, "o")


def plain_mla(mla: Mla, x: Tensor, weights: Weights) -> Tensor:
    """One sequence, (S, D) -> (S, D), the rotated key copied to every head."""

    def latent(y: Tensor, path: str, rank: int) -> Tensor:
        y = normed(mla.norm, y, weights, path)
        return y * math.sqrt(WIDTH / rank) if mla.latent_scale else y

    if mla.q_rank is None:
        q = projected(x, weights, "q")
    else:
        q = projected(latent(projected(x, weights, "q_down"), "q_norm", mla.q_rank), weights, "q_up")
    q = q.view(LENGTH, mla.heads, -1)
    down = projected(x, weights, "kv_down")
    up = projected(latent(down[:, : mla.kv_rank], "kv_norm", mla.kv_rank), weights, "kv_up")
    up = up.view(LENGTH, mla.heads, -1)
    shared = rotated(down[:, mla.kv_rank :].unsqueeze(1), mla.rope).expand(-1, mla.heads, -1)
    q = torch.cat([q[..., : mla.nope_dim], rotated(q[..., mla.nope_dim :], mla.rope)], -1)
    k = torch.cat([up[..., : mla.nope_dim], shared], -1)
    scale = mla.attend.scale or 1 / math.sqrt(mla.nope_dim + mla.rope_dim)
    if mla.rope is not None and isinstance(mla.rope.scaling, Yarn) and mla.rope.scaling.mscale_all_dim:
        yarn = mla.rope.scaling
        scale *= (0.1 * yarn.mscale_all_dim * math.log(yarn.factor) + 1) ** 2
    return projected(attended(mla.attend, x, q, k, up[..., mla.nope_dim :], scale, weights), weights, "o")


# --- comparisons ---


def region_of(component: Component) -> ReferenceRegion:
    """A layer `x = component(x)`."""
    at = small_spec().model.layers[0].origin
    layer = Layer((Equation("x", False, Call("it", component, Var("x", at), at), at),), at)
    model: ModelSpec = replace(small_spec().model, width=WIDTH, context=CONTEXT, layers=(layer,))
    return build(model, Shape(BATCH, LENGTH, torch.float64)).kinds["layer_0"]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 0.5


def check(component: Component, plain: Any) -> None:
    """The same values, and the same gradients of the input and of all parameters; none of them zero."""
    region = region_of(component)
    weights = {
        p.path: draw(*value(node).shape, seed=i).requires_grad_()
        for i, (p, node) in enumerate(zip(region.parameters, region.parameter_nodes(), strict=True))
    }
    x = draw(BATCH * LENGTH, WIDTH, seed=91).requires_grad_()
    facts = {name: torch.tensor(1) for name in region.inputs if name != "x"}
    found = run(region, weights, {"x": x, **facts})["x"]
    named = {path.removeprefix("it").removeprefix("."): tensor for path, tensor in weights.items()}
    expected = torch.cat([plain(component, row, named) for row in x.view(BATCH, LENGTH, WIDTH)])
    assert_equal(found, expected)
    grad, wrt = draw(*found.shape, seed=92), [x, *weights.values()]
    pairs = zip(torch.autograd.grad(found, wrt, grad), torch.autograd.grad(expected, wrt, grad), strict=True)
    for name, (one, other) in zip(["x", *weights], pairs, strict=True):
        assert_equal(one, other)
        assert other.abs().max() > 1e-3, name


def assert_equal(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("name", NORMS)
def test_norms(name: str) -> None:
    check(NORMS[name], lambda norm, x, weights: normed(norm, x, weights, ""))


@pytest.mark.parametrize("name", GQAS)
def test_grouped_query_attention(name: str) -> None:
    check(GQAS[name], plain_gqa)


@pytest.mark.parametrize("name", MLAS)
def test_latent_attention(name: str) -> None:
    check(MLAS[name], plain_mla)
