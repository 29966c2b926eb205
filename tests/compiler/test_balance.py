"""Losses that balance routers, by their formulas: of whole small models, values and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.minimax_m2.modeling_minimax_m2 import load_balancing_loss_func

from moec.compiler.build.model import build
from moec.compiler.build.region import Shape
from moec.compiler.graph import run
from moec.compiler.reference import reference_step
from moec.dsl.spec import Spec
from small_models import SEQUENCE, batch_of, small_spec, weights_of

LAYERS, EXPERTS, SEQUENCES = 2, 4, 5


class Routed:
    """A small model without attention, run for one batch; the logits and choices of its routers, by loops.

    The MoE adds nothing to the stream, so that the input of every layer is the embedding.
    """

    def __init__(self, balance: str, router: str, **pieces: str) -> None:
        self.spec = small_spec(
            balance=balance, router=router, layer="x += {ffn}(norm(x))", **pieces, layers=str(LAYERS)
        )
        self.weights = {
            name: (torch.zeros_like(w) if name.endswith(".down") else w).requires_grad_()
            for name, w in weights_of(self.spec).items()
        }
        self.tokens, self.targets = batch_of(self.spec)
        x = self.weights["embed"][self.tokens.flatten()]
        rms = (x.square().mean(1, keepdim=True) + 1e-5).sqrt()
        self.logits = [
            x / rms * self.weights[f"{at}.norm"] @ self.weights[f"{at}.router"].T
            for at in (f"layers.{i}.experts" for i in range(LAYERS))
        ]

    def correction(self, layer: int) -> Tensor:
        return self.weights[f"layers.{layer}.experts.correction"]

    def check(self, name: str, coefficient: float, expected: Tensor, micro_batches: int = 1) -> None:
        """One loss of the objective, and the share of the gradient of routers that is its own."""
        found = self._found(self.spec, micro_batches)
        assert found.losses[name] == pytest.approx(expected.item(), rel=1e-11)
        routers = [f"layers.{i}.experts.router" for i in range(LAYERS)]
        theirs = torch.autograd.grad(expected, [self.weights[name] for name in routers], retain_graph=True)
        for name, gradient in zip(routers, theirs, strict=True):
            assert gradient.abs().max() > 0
            torch.testing.assert_close(found.gradients[name], coefficient * gradient, rtol=1e-9, atol=1e-12)

    def _found(self, spec: Spec, micro_batches: int) -> Any:
        plain = {name: w.detach() for name, w in self.weights.items()}
        return reference_step(spec.model, plain, self.tokens, self.targets, micro_batches, 0)


@pytest.mark.parametrize("per", ["model", "layer"])
@pytest.mark.parametrize("micro_batches", [1, 3, 5])
def test_aux_loss_over_the_batch(per: str, micro_batches: int) -> None:
    """f counts the choices of the micro-batches so far, p is of the tokens of this one."""
    routed = Routed(f"aux_loss(0.5, per: {per}, over: batch)", "softmax | top(2)")
    total, size = torch.zeros((), dtype=torch.float64), -(-SEQUENCES // micro_batches) * SEQUENCE
    tokens = SEQUENCES * SEQUENCE
    for start in range(0, tokens, size):
        terms = []
        for logits in routed.logits:
            seen = logits[: start + size]
            chosen = seen.argsort(1, descending=True)[:, :2]
            f = torch.stack([(chosen == e).sum().double() / len(seen) for e in range(EXPERTS)])
            terms.append((f, seen[start:].softmax(1).sum(0) / tokens))
        if per == "layer":
            total = total + EXPERTS * sum((f * p).sum() for f, p in terms)
        else:
            f, p = (torch.stack(both).mean(0) for both in zip(*terms, strict=True))
            total = total + EXPERTS * (f * p).sum()
    routed.check("aux_loss", 0.5, total, micro_batches)


@pytest.mark.parametrize("micro_batches", [1, 5])
def test_sequence_aux_loss(micro_batches: int) -> None:
    """E / (k S) * sum f p of each sequence, by scores that sum to one, however a batch is cut."""
    routed = Routed("sequence_aux_loss(0.5)", "sigmoid | correction_bias | top(2) | renormalize")
    total = torch.zeros((), dtype=torch.float64)
    for layer, logits in enumerate(routed.logits):
        scores = 1 / (1 + (-logits).exp())
        for one in scores.split(SEQUENCE):
            chosen = (one + routed.correction(layer)).argsort(1, descending=True)[:, :2]
            f = [(chosen == e).sum() for e in range(EXPERTS)]
            p = (one / one.sum(1, keepdim=True)).mean(0)
            total = total + EXPERTS / (2 * SEQUENCE) * sum(f[e] * p[e] for e in range(EXPERTS)) / SEQUENCES
    routed.check("sequence_aux_loss", 0.5, total, micro_batches)


def test_even_choices_with_even_scores_cost_one_a_layer() -> None:
    routed = Routed("sequence_aux_loss(0.5)", "softmax | round_robin(2)")
    for layer in range(LAYERS):
        routed.weights[f"layers.{layer}.experts.router"].data.zero_()
    assert routed._found(routed.spec, 1).losses["sequence_aux_loss"] == pytest.approx(LAYERS, rel=1e-12)


@pytest.mark.parametrize("per", ["model", "layer"])
def test_aux_loss_of_the_largest_probabilities_or_of_what_was_chosen(per: str) -> None:
    """`choices: softmax` is what transformers counts, whatever the router chose."""
    router = "sigmoid | correction_bias | top(2) | renormalize"
    counted = {}
    for choices in ("softmax", "router"):
        routed = Routed(f"aux_loss(0.5, per: {per}, choices: {choices})", router)
        f, p = [], []
        for layer, logits in enumerate(routed.logits):
            by = logits if choices == "softmax" else logits.sigmoid() + routed.correction(layer)
            chosen = by.argsort(1, descending=True)[:, :2]
            f.append(torch.stack([(chosen == e).sum() for e in range(EXPERTS)]).double() / len(logits))
            p.append((logits.exp() / logits.exp().sum(1, keepdim=True)).mean(0))
        pooled = EXPERTS * (sum(f) / LAYERS * sum(p) / LAYERS).sum()
        added = sum(EXPERTS * (a * b).sum() for a, b in zip(f, p, strict=True))
        routed.check("aux_loss", 0.5, pooled if per == "model" else added)  # type: ignore[arg-type]
        counted[choices] = f
        if (per, choices) == ("model", "softmax"):
            theirs = load_balancing_loss_func(tuple(routed.logits), EXPERTS, top_k=2)
            assert pooled.item() == pytest.approx(theirs.item(), rel=1e-6)  # they take means in float32
    assert not torch.equal(torch.stack(counted["softmax"]), torch.stack(counted["router"]))


def test_aux_loss_counts_identity_experts() -> None:
    """The router chooses among all; the loss is over as many as it scores."""
    routed = Routed("aux_loss(0.5)", "softmax | top(2)", moe="identity: 3,")
    logits = torch.cat(routed.logits[:1])  # the stream changes by identity experts, so only the first layer
    found = first_layer(routed)
    chosen = logits.argsort(1, descending=True)[:, :2]
    assert found["choices"].tolist() == [int((chosen == e).sum()) for e in range(EXPERTS + 3)]
    assert found["choices"].tolist() == found["experts.load"].tolist()
    torch.testing.assert_close(found["probabilities"], logits.softmax(1).sum(0))


def first_layer(routed: Routed) -> dict[str, Tensor]:
    """What the first layer gives, from zero statistics."""
    model = build(routed.spec.model, Shape(SEQUENCES, SEQUENCE, torch.float64))
    region = model.kinds["layer_0"]
    stored = {
        p.path: torch.stack([routed.weights[f"layers.0.{name}"] for name in p.names("")])
        if p.experts
        else routed.weights[f"layers.0.{p.path}"]
        for p in region.parameters
    }
    tokens = torch.tensor(SEQUENCES * SEQUENCE)
    values = {
        "x": routed.weights["embed"][routed.tokens.flatten()],
        "sequences": torch.tensor(SEQUENCES),
        "micro_tokens": tokens,
        "batch_tokens": tokens,
    }
    carried = model.statistics.carried(torch.float64)
    zeros = {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in carried.items()}
    return run(region, stored, {**values, **zeros})


def test_z_loss_is_of_the_logits_that_are_scored() -> None:
    """After their scale and cap."""
    routed = Routed("z_loss(0.5)", "scale(2) | softcap(1.5) | softmax | top(2)")
    capped = [1.5 * (2 * logits / 1.5).tanh() for logits in routed.logits]
    expected = sum((z.exp().sum(1).log() ** 2).mean() for z in capped)
    routed.check("z_loss", 0.5, expected)  # type: ignore[arg-type]


def test_padding_bears_no_loss() -> None:
    """Two sequences of which the second is none, against the first alone."""
    spec = small_spec("all losses", layers="1")
    weights = {n.removeprefix("layers.0."): w for n, w in weights_of(spec).items()}
    x = torch.randn(2 * SEQUENCE, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    results = []
    for capacity in (1, 2):
        model = build(spec.model, Shape(capacity, SEQUENCE, torch.float64))
        region = model.kinds["layer_0"]
        stored = {
            p.path: torch.stack([weights[name] for name in p.names("")]) if p.experts else weights[p.path]
            for p in region.parameters
        }
        zeros = {
            name: torch.zeros(shape, dtype=dtype)
            for name, (shape, dtype) in model.statistics.carried(torch.float64).items()
        }
        facts = {"sequences": 1, "micro_tokens": SEQUENCE, "batch_tokens": SEQUENCE}
        given = {"x": x[: capacity * SEQUENCE], **zeros, **{n: torch.tensor(v) for n, v in facts.items()}}
        results.append(run(region, stored, given))
    for name in ("aux", "sequence_aux", "z", "experts.load"):
        torch.testing.assert_close(results[0][name], results[1][name], rtol=1e-12, atol=0)
