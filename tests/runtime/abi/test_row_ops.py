"""Norms and positions compute their formulas, gradients included."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moec.runtime.abi import row_ops

from .routes import random

LEAST = settings(deadline=None, max_examples=60)
SHAPES = [(3, 5), (2, 3, 4, 6), (0, 5), (1, 1)]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal up to the rounding of float64 sums of some dozen terms of size one."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def agree(found: Tensor, expected: Tensor, inputs: list[Tensor]) -> None:
    """The same value, and the same gradients of all inputs."""
    close(found, expected)
    grad = random(*expected.shape, seed=9)
    for one, other in zip(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad), strict=True
    ):
        close(one, other)


# --- norms ---


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [True, False])
def test_rms_norm(shape: tuple[int, ...], weighted: bool) -> None:
    x = random(*shape, grad=True)
    weight = random(shape[-1], seed=1, grad=True) if weighted else None
    out, rstd = row_ops.rms_norm(x, weight, 1e-3)
    rms = (x.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    close(rstd, (1 / rms).detach())
    agree(out, x / rms if weight is None else x / rms * weight, [x] if weight is None else [x, weight])


def test_rms_norm_of_zeros_is_zero() -> None:
    assert row_ops.rms_norm(torch.zeros(2, 4), torch.ones(4), 1e-6)[0].tolist() == [[0.0] * 4] * 2


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("biased", [True, False])
def test_layer_norm(shape: tuple[int, ...], weighted: bool, biased: bool) -> None:
    x = random(*shape, grad=True)
    weight = random(shape[-1], seed=1, grad=True) if weighted else None
    bias = random(shape[-1], seed=2, grad=True) if biased else None
    out, mean, rstd = row_ops.layer_norm(x, weight, bias, 1e-3)
    centered = x - x.mean(-1, keepdim=True)
    deviation = (centered.square().mean(-1, keepdim=True) + 1e-3).sqrt()
    close(mean, x.mean(-1, keepdim=True).detach())
    close(rstd, (1 / deviation).detach())
    expected = centered / deviation * (1.0 if weight is None else weight) + (0.0 if bias is None else bias)
    agree(out, expected, [t for t in (x, weight, bias) if t is not None])


# --- positions ---


@LEAST
@given(
    length=st.integers(1, 6),
    before=st.integers(0, 3),
    after=st.integers(0, 3),
    frequencies=st.lists(st.floats(1e-3, 3.0), min_size=1, max_size=4),
    magnitude=st.floats(0.5, 2.0),
    interleaved=st.booleans(),
)
def test_rope_multiplies_pairs_as_complex_numbers(
    length: int, before: int, after: int, frequencies: list[float], magnitude: float, interleaved: bool
) -> None:
    """By magnitude * e^(i position frequency); other dims stay; the gradient is that of the product."""
    pairs = len(frequencies)
    x = random(2, length, 3, before + 2 * pairs + after, grad=True)
    turned = x[..., before : before + 2 * pairs]
    shape = (2, length, 3, *((pairs, 2) if interleaved else (2, pairs)))
    real, imaginary = turned.reshape(shape).unbind(-1 if interleaved else -2)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * torch.tensor(
        frequencies, dtype=torch.float64
    )
    factor = torch.polar(torch.full_like(angle, magnitude), angle)[:, None]
    product = torch.view_as_real(torch.complex(real, imaginary) * factor)
    expected = product.flatten(-2) if interleaved else product.transpose(-1, -2).flatten(-2)
    whole = torch.cat([x[..., :before], expected, x[..., before + 2 * pairs :]], -1)
    agree(row_ops.rope(x, before, frequencies, magnitude, interleaved, False), whole, [x])


@pytest.mark.parametrize("interleaved", [True, False])
def test_inverse_rope_is_the_transpose(interleaved: bool) -> None:
    """<rope(x), y> = <x, inverse rope(y)>; without a magnitude it is the inverse, too."""
    x, y = random(2, 5, 3, 8), random(2, 5, 3, 8, seed=1)
    turn = (2, [0.7, 0.1, 0.01], 1.3, interleaved)
    left = (row_ops.rope(x, *turn, False) * y).sum()
    close(left, (x * row_ops.rope(y, *turn, True)).sum())
    plain = (2, [0.7, 0.1, 0.01], 1.0, interleaved)
    close(row_ops.rope(row_ops.rope(x, *plain, False), *plain, True), x)


def test_scores_depend_on_distance_alone() -> None:
    """A query and a key, moved by the same number of positions, have the same score."""
    q, k = random(4), random(4, seed=1)
    turned = [row_ops.rope(t.expand(1, 9, 1, 4), 0, [1.0, 0.3], 1.0, False, False)[0, :, 0] for t in (q, k)]
    scores = turned[0] @ turned[1].T
    for distance in range(-8, 9):
        found = scores.diagonal(distance)
        close(found, found[:1].expand_as(found))


@pytest.mark.parametrize("offset", [0, 1])
def test_position_scale(offset: int) -> None:
    x = random(2, 9, 3, 2, grad=True)
    factors = [1 + 0.3 * math.log(1 + (p + offset) // 4) for p in range(9)]
    expected = x * torch.tensor(factors, dtype=torch.float64)[:, None, None]
    agree(row_ops.position_scale(x, 0.3, 4, offset), expected, [x])
