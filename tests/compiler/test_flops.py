"""Model FLOPs: the formula against torch's own counter, and pairs against counting them one by one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from moec.compiler.build.model import Shape, build
from moec.compiler.flops import flops_per_token, pairs
from moec.compiler.reference import reference_step
from moec.dsl.parameters import model_parameters
from moec.dsl.spec import Attend
from small_models import small_spec


@given(st.integers(1, 40), st.integers(1, 50), st.sampled_from(["window", "chunk", None]))
def test_pairs_are_those_of_the_mask(sequence: int, size: int, kind: str | None) -> None:
    attend = Attend() if kind is None else Attend(**{kind: size})
    q, k = torch.arange(sequence).unsqueeze(1), torch.arange(sequence)
    seen = k <= q
    if kind == "window":
        seen &= q - k < size
    elif kind == "chunk":
        seen &= q // size == k // size
    assert pairs(attend, sequence) == int(seen.sum())


LAYERS, HEADS, HEAD_DIM = 2, 4, 4


@pytest.mark.parametrize(
    ("variant", "expert_elements"),
    [("no experts", 0), ("tied", 2 * 3 * 16 * 12), ("mixtral", 2 * 3 * 16 * 12), ("shared", 2 * 3 * 16 * 12)],
)
def test_matrices_are_those_that_torch_multiplies(variant: str, expert_elements: int) -> None:
    """torch's counter sees every matrix product of forward and backward but those in our own operations: the
    products of experts, two choices of three matrices each, and attention."""
    spec = small_spec(variant)
    weights = {
        name: torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        for region, parameter in model_parameters(spec.model)
        for name in parameter.names(region)
    }
    tokens = torch.randint(0, spec.model.vocab, (spec.train.batch_sequences, spec.train.sequence))
    with FlopCounterMode(display=False) as counter:
        reference_step(spec.model, weights, tokens, tokens, micro_batches=1)
    with FlopCounterMode(display=False) as building:  # nodes are run for their shapes, and counted, too
        build(spec.model, Shape(*tokens.shape, torch.float32))
    pairs_of_sequence = spec.train.sequence * (spec.train.sequence + 1) // 2
    attention = 6 * LAYERS * HEADS * (2 * HEAD_DIM) * pairs_of_sequence * spec.train.batch_sequences
    experts = 6 * LAYERS * expert_elements * tokens.numel()
    expected = counter.get_total_flops() - building.get_total_flops() + attention + experts
    assert flops_per_token(spec.model, spec.train.sequence) * tokens.numel() == expected
