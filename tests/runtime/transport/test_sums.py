"""The one definition of a sum, against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import torch
from hypothesis import given
from hypothesis import strategies as st

from moec.runtime.transport.common import sum_in_order

EXACT = 2**-20  # multiples of it below 8 in number and size add up exactly in float32
terms = st.lists(st.integers(-(2**20), 2**20).map(lambda k: k * EXACT), min_size=1, max_size=7)


@given(terms)
def test_float32_sums_of_exact_terms_are_exact(values: list[float]) -> None:
    total = sum_in_order([torch.tensor([value]) for value in values])
    assert Fraction(total.item()) == sum(map(Fraction, values))


@given(terms)
def test_bfloat16_sums_are_the_exact_sum_of_the_terms_rounded_once(values: list[float]) -> None:
    parts = [torch.tensor([value]).to(torch.bfloat16) for value in values]
    exact = sum((Fraction(part.item()) for part in parts), Fraction(0))
    rounded = torch.tensor([float(exact)], dtype=torch.float64).to(torch.float32).to(torch.bfloat16)
    assert torch.equal(sum_in_order(parts), rounded)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=9))
def test_uint8_sums_wrap(values: list[int]) -> None:
    total = sum_in_order([torch.tensor([value], dtype=torch.uint8) for value in values])
    assert total.item() == sum(values) % 256


def test_the_terms_are_left_alone() -> None:
    parts = [torch.ones(3), torch.ones(3)]
    sum_in_order(parts).fill_(9)
    sum_in_order(parts[:1]).fill_(9)
    assert all(torch.equal(part, torch.ones(3)) for part in parts)
