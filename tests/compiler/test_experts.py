"""What experts compute: every form of network, and every way around them, against loops over tokens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor

from moec.compiler.graph import run
from small_models import SEQUENCE, small_spec, weights_of

from .stages import reference

Weights = Mapping[str, Tensor]
"""`gate`, `up`, `down` and their biases, of one network."""

SEQUENCES = 2


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def silu(x: Tensor, alpha: float = 1.0) -> Tensor:
    return x * sigmoid(alpha * x)


def gelu(x: Tensor) -> Tensor:
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Tensor) -> Tensor:
    return x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()) / 2


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    y = w[name] @ x
    return y + w[f"{name}_bias"] if f"{name}_bias" in w else y


def ungated(act: Callable[[Tensor], Tensor], w: Weights, x: Tensor) -> Tensor:
    return linear(w, "down", act(linear(w, "up", x)))


def gated(act: Callable[[Tensor], Tensor], w: Weights, x: Tensor) -> Tensor:
    return linear(w, "down", act(linear(w, "gate", x)) * linear(w, "up", x))


def gpt_oss(w: Weights, x: Tensor) -> Tensor:
    gate, up = linear(w, "gate", x), linear(w, "up", x)
    gate, up = torch.where(gate < 0.9, gate, 0.9), torch.where(up < 0.9, up, 0.9)
    up = torch.where(up > -0.9, up, -0.9)
    return linear(w, "down", gate * sigmoid(1.7 * gate) * (up + 1))


def clamped_after(w: Weights, x: Tensor) -> Tensor:
    gate, up = silu(linear(w, "gate", x)), linear(w, "up", x)
    gate, up = torch.where(gate < 0.5, gate, 0.5), torch.where(up < 0.5, up, 0.5)
    return linear(w, "down", gate * torch.where(up > -0.5, up, -0.5))


NETWORKS: dict[str, Callable[[Weights, Tensor], Tensor]] = {
    "swiglu(12)": partial(gated, silu),
    "swiglu(12, bias: true)": partial(gated, silu),
    "swiglu(12, alpha: 1.3)": partial(gated, partial(silu, alpha=1.3)),
    "swiglu(12, bias: true, clamp: 0.9, alpha: 1.7, offset: 1)": gpt_oss,
    "swiglu(12, clamp_after: 0.5)": clamped_after,
    "geglu(12)": partial(gated, gelu_tanh),
    "mlp(12)": partial(ungated, gelu),
    "mlp(12, act: gelu_tanh, bias: true)": partial(ungated, gelu_tanh),
    "mlp(12, act: relu)": partial(ungated, lambda x: torch.where(x > 0, x, 0)),
    "mlp(12, act: relu2)": partial(ungated, lambda x: torch.where(x > 0, x * x, 0)),
    "mlp(12, act: silu, bias: true)": partial(ungated, silu),
}
"""Text -> what it computes of one row."""


class Plain:
    """The weights of one layer by path, leaves of autograd, and loops over its tokens."""

    def __init__(self, **pieces: str) -> None:
        pieces = {"layer": "x += {ffn}(norm(x))", "layers": "1", "balance": "none"} | pieces
        self.spec = small_spec(**pieces)
        names = {n.removeprefix("layers.0."): w for n, w in weights_of(self.spec).items()}
        self.region = reference(self.spec, SEQUENCES).kinds["layer_0"]
        paths = {name for p in self.region.parameters for name in p.names("")}
        self.w = {name: w.requires_grad_() for name, w in names.items() if name in paths}
        generator = torch.Generator().manual_seed(1)
        self.x = torch.randn(SEQUENCES * SEQUENCE, 16, dtype=torch.float64, generator=generator)
        self.x.requires_grad_()

    def under(self, path: str) -> Weights:
        return {n.removeprefix(f"{path}."): w for n, w in self.w.items() if n.startswith(f"{path}.")}

    def normed(self, name: str) -> Tensor:
        return self.x / (self.x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.w[name]

    def built(self) -> Tensor:
        """What the region makes of the tokens."""
        stored = {
            p.path: torch.stack([self.w[name] for name in p.names("")]) if p.experts else self.w[p.path]
            for p in self.region.parameters
        }
        tokens = torch.tensor(SEQUENCES * SEQUENCE)
        facts = {"sequences": torch.tensor(SEQUENCES), "micro_tokens": tokens, "batch_tokens": tokens}
        found = run(self.region, stored, {"x": self.x, **facts})["x"]
        assert isinstance(found, Tensor)
        return found

    def check(self, added: list[Tensor]) -> None:
        """Values, and gradients of tokens and of all parameters; `added` by the layer, a row a token."""
        found, expected = self.built(), self.x + torch.stack(added)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
        grad = torch.randn(expected.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        wrt = {"x": self.x} | {name: w for name, w in self.w.items() if not name.endswith("correction")}
        ours, theirs = (
            torch.autograd.grad(y, [*wrt.values()], grad, allow_unused=True, materialize_grads=True)
            for y in (found, expected)
        )
        for name, one, other in zip(wrt, ours, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


def choices(plain: Plain, rows: Tensor, k: int) -> list[list[tuple[int, Tensor]]]:
    """Of `softmax | top(k)`, by token."""
    scores = (rows @ plain.w["experts.router"].T).softmax(1)
    return [[(e, row[e]) for e in row.argsort(descending=True)[:k].tolist()] for row in scores]


@pytest.mark.parametrize("text", NETWORKS)
def test_a_network_of_every_form_as_experts_and_shared(text: str) -> None:
    """The clamped ones are at their limits in places, and within in others."""
    plain = Plain(router="softmax | top(2)", network=text, moe=f"shared: 1 of {text},")
    network, rows = NETWORKS[text], plain.normed("experts.norm")
    added = [
        sum(
            (weight * network(plain.under(f"experts.expert.{e}"), row) for e, weight in chosen),
            network(plain.under("experts.shared"), row),
        )
        for row, chosen in zip(rows, choices(plain, rows, 2), strict=True)
    ]
    plain.check(added)


@pytest.mark.parametrize("text", NETWORKS)
def test_a_network_that_every_token_passes(text: str) -> None:
    plain = Plain(layer="x += dense(norm(x))", dense=text)
    plain.check([NETWORKS[text](plain.under("dense"), row) for row in plain.normed("dense.norm")])


# --- around the experts ---


def swiglu(plain: Plain, path: str, row: Tensor) -> Tensor:
    return gated(silu, plain.under(path), row)


@pytest.mark.parametrize("average", [False, True])
def test_shared_experts_are_one_network_of_their_width(average: bool) -> None:
    """Behind a gate of its own; summed with the others, or averaged."""
    combine = "combine: average," if average else ""
    plain = Plain(router="softmax | top(2)", moe=f"shared: 3 of swiglu(5), shared_gate: true, {combine}")
    rows = plain.normed("experts.norm")
    assert plain.w["experts.shared.up"].shape == (15, 16)
    added = []
    for row, chosen in zip(rows, choices(plain, rows, 2), strict=True):
        shared = swiglu(plain, "experts.shared", row) * sigmoid(plain.w["experts.shared_gate"] @ row)
        both = sum((w * swiglu(plain, f"experts.expert.{e}", row) for e, w in chosen), shared)
        added.append(both / 2 if average else both)
    plain.check(added)


@pytest.mark.parametrize("bias", ["", ", bias: true"])
def test_identity_experts_give_back_their_input(bias: str) -> None:
    plain = Plain(router="softmax | top(3)", moe="identity: 3,", network=f"swiglu(12{bias})")
    rows = plain.normed("experts.norm")
    picked = choices(plain, rows, 3)
    assert {e >= 4 for row in picked for e, _ in row} == {True, False}
    added = [
        torch.stack([w * (swiglu(plain, f"experts.expert.{e}", row) if e < 4 else row) for e, w in chosen])
        for row, chosen in zip(rows, picked, strict=True)
    ]
    plain.check([each.sum(0) for each in added])


def test_all_choices_on_identity_experts() -> None:
    """No expert has a row."""
    plain = Plain(router="softmax | top(1)", moe="identity: 2, router_bias: true,", experts="2")
    with torch.no_grad():
        plain.w["experts.router_bias"].copy_(torch.tensor([-99.0, -99.0, 0.0, 0.0]))
    rows = plain.normed("experts.norm")
    scores = (rows @ plain.w["experts.router"].T + plain.w["experts.router_bias"]).softmax(1)
    plain.check([row * score.max() for row, score in zip(rows, scores, strict=True)])


@pytest.mark.parametrize("pad", ["", ", pad: true"])
@pytest.mark.parametrize("capacity", [0.4, 100.0])
def test_choices_without_room_give_nothing(capacity: float, pad: str) -> None:
    """Also where experts have biases and a norm with one: a row that is not sent meets neither."""
    plain = Plain(
        router=f"softmax | top(2) | capacity({capacity}{pad})",
        network="swiglu(12, bias: true)",
        moe="expert_norm: layer_norm(eps: 1e-3),",
    )
    rows = plain.normed("experts.norm")
    limit, added, taken = math.ceil(capacity * SEQUENCE * 2 / 4), [], [0] * 4
    for t, (row, chosen) in enumerate(zip(rows, choices(plain, rows, 2), strict=True)):
        taken = [0] * 4 if t % SEQUENCE == 0 else taken
        total = torch.zeros(16, dtype=torch.float64)
        for e, weight in chosen:
            if taken[e] < limit:
                total = total + weight * layer_norm(plain, swiglu(plain, f"experts.expert.{e}", row))
            taken[e] += 1
        added.append(total)
    plain.check(added)


def layer_norm(plain: Plain, row: Tensor) -> Tensor:
    centred = row - row.mean()
    scaled = centred / (centred.square().mean() + 1e-3).sqrt()
    return scaled * plain.w["experts.expert_norm"] + plain.w["experts.expert_norm_bias"]


@pytest.mark.parametrize("capacity", ["", " | capacity(0.4)"])
def test_a_weight_can_multiply_the_input(capacity: str) -> None:
    """What experts do to it is not linear, so that is another function than to multiply the output."""
    plain = Plain(router=f"softmax | top(2){capacity}", moe="weigh: input,", network="mlp(12, bias: true)")
    rows = plain.normed("experts.norm")
    limit, added, taken = math.ceil(0.4 * SEQUENCE * 2 / 4) if capacity else 99, [], [0] * 4
    for t, (row, chosen) in enumerate(zip(rows, choices(plain, rows, 2), strict=True)):
        taken = [0] * 4 if t % SEQUENCE == 0 else taken
        total = torch.zeros(16, dtype=torch.float64)
        for e, weight in chosen:
            if taken[e] < limit:
                total = total + ungated(gelu, plain.under(f"experts.expert.{e}"), weight * row)
            taken[e] += 1
        added.append(total)
    plain.check(added)


def test_experts_can_work_on_a_latent() -> None:
    """Router and shared expert see the input itself; the weighted sum is projected back."""
    plain = Plain(
        router="softmax | top(2)",
        moe="latent: 8, latent_norm: norm, expert_norm: norm, shared: 1 of swiglu(6),",
        network="mlp(12, act: relu2)",
    )
    w, rows = plain.w, plain.normed("experts.norm")
    act = partial(ungated, lambda x: torch.where(x > 0, x * x, 0))

    def rms(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean() + 1e-5).sqrt() * w[name]

    added = []
    for row, chosen in zip(rows, choices(plain, rows, 2), strict=True):
        latent = rms(w["experts.latent_down"] @ row, "experts.latent_norm")
        outs = [
            weight * rms(act(plain.under(f"experts.expert.{e}"), latent), "experts.expert_norm")
            for e, weight in chosen
        ]
        added.append(w["experts.latent_up"] @ torch.stack(outs).sum(0) + swiglu(plain, "experts.shared", row))
    plain.check(added)
