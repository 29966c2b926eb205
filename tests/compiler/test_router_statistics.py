"""What a MoE shows of its router: the entropy of its probabilities, and choices that found no room."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moec.compiler import model_ops
from moec.compiler.reference import reference_step
from small_models import SEQUENCE, batch_of, small_spec, weights_of

SEQUENCES, WIDTH = 5, 16


def router_logits(router: str, **pieces: str) -> tuple[Tensor, dict[str, float], dict[str, Tensor]]:
    """(T, E) logits of a one-layer model's router by hand, and what the reference says of the batch."""
    spec = small_spec(router=router, layer="x += {ffn}(norm(x))", layers="1", balance="none", **pieces)
    weights = weights_of(spec)
    tokens, targets = batch_of(spec)
    found = reference_step(spec.model, weights, tokens, targets, micro_batches=2)
    x = weights["embed"][tokens.flatten()]
    x = x / (x.square().mean(1, keepdim=True) + 1e-5).sqrt() * weights["layers.0.experts.norm"]
    return x @ weights["layers.0.experts.router"].T, found.losses, found.loads


def entropy(p: Tensor) -> float:
    """Mean over the rows of -sum p ln p, number by number."""
    rows = [-sum(q * math.log(q) for q in row if q > 0) for row in p.tolist()]
    return math.fsum(rows) / len(rows)


SCORES = {
    "softmax | top(2)": lambda z: z.softmax(1),
    "scale(3) | softmax | top(2) | renormalize": lambda z: (3 * z).softmax(1),
    "top(2) | softmax": lambda z: z.softmax(1),
    "sigmoid | top(2) | renormalize": lambda z: z.sigmoid() / z.sigmoid().sum(1, keepdim=True),
    "sqrt_softplus | top(2)": lambda z: (
        (1 + z.exp()).log().sqrt() / (1 + z.exp()).log().sqrt().sum(1, keepdim=True)
    ),
    "sinkhorn(iterations: 3) | top(2) | sigmoid": lambda z: z.softmax(1),
}


@pytest.mark.parametrize("router", SCORES)
def test_entropy_is_of_the_scores_as_probabilities(router: str) -> None:
    logits, losses, _ = router_logits(router)
    assert losses["layers.0.experts.entropy"] == pytest.approx(entropy(SCORES[router](logits)), rel=1e-12)


@settings(deadline=None)
@given(st.integers(2, 9), st.integers(1, 4), st.integers(0, 3))
def test_entropy_lies_between_certain_and_even(experts: int, sequences: int, real: int) -> None:
    """Even scores have ln E, one that stands alone 0, no scores at all 0; padding is not counted."""
    tokens, count = sequences * SEQUENCE, torch.tensor(min(real, sequences))
    even = torch.full((tokens, experts), 0.3, dtype=torch.float64)
    alone = torch.zeros(tokens, experts, dtype=torch.float64)
    none = alone.clone()
    alone[:, 0] = 0.7
    of = [model_ops.entropy_sum(scores, count, SEQUENCE).item() for scores in (even, alone, none)]
    assert of[0] == pytest.approx(int(count) * SEQUENCE * math.log(experts), rel=1e-12)
    assert of[1] == pytest.approx(0.0, abs=1e-12)
    assert of[2] == 0.0


@pytest.mark.parametrize("factor", [0.3, 0.6, 1.0])
def test_dropped_are_choices_without_room_and_tokens_without_any(factor: float) -> None:
    """By walking through the choices of every sequence in order."""
    logits, _, loads = router_logits(f"softmax | top(2) | capacity({factor})")
    room = min(SEQUENCE, math.ceil(factor * SEQUENCE * 2 / 4))
    chosen = logits.argsort(1, descending=True)[:, :2].view(SEQUENCES, SEQUENCE, 2).tolist()
    choices = tokens = 0
    for sequence in chosen:
        taken = [0] * 4
        for token in sequence:
            out = 0
            for expert in token:
                out += taken[expert] >= room
                taken[expert] += 1
            choices, tokens = choices + out, tokens + (out == 2)
    assert loads["layers.0.experts.dropped"].tolist() == [choices, tokens]
    assert choices > 0 or factor == 1.0
    assert loads["layers.0.experts.load"].sum() == SEQUENCES * SEQUENCE * 2


def test_padding_is_not_dropped() -> None:
    sent = torch.full((3 * SEQUENCE, 2), 4)
    assert model_ops.dropped(sent, torch.tensor(2), SEQUENCE, 4).tolist() == [4 * SEQUENCE, 2 * SEQUENCE]


def test_without_a_capacity_nothing_can_be_dropped() -> None:
    _, _, loads = router_logits("softmax | top(2)")
    assert set(loads) == {"layers.0.experts.load"}
