"""Operations on bfloat16: computed in float32, rounded once, as are their gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from moec.runtime.abi import attention_ops, counter_ops, expert_ops, row_ops

HALF = torch.bfloat16
ULP = 2.0**-7
"""Two roundings of bfloat16, relative: one of this result and one of the other."""


def values(*shape: int, seed: int, dtype: torch.dtype = HALF) -> Tensor:
    drawn = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return drawn.to(HALF).to(dtype).requires_grad_()


ROWS: dict[str, tuple[Callable[..., Tensor], tuple[tuple[int, ...], ...], int]] = {
    "rms_norm": (lambda x, w: row_ops.rms_norm(x, w, 1e-5)[0], ((9, 64), (64,)), 1),
    "rms_norm without weight": (lambda x: row_ops.rms_norm(x, None, 1e-5)[0], ((9, 64),), 1),
    "layer_norm": (lambda x, w, b: row_ops.layer_norm(x, w, b, 1e-5)[0], ((9, 64), (64,), (64,)), 1),
    "rope": (lambda x: row_ops.rope(x, 2, [1.0, 0.1], 1.5, True, False), ((2, 50, 3, 8),), 1),
    "rope by halves": (lambda x: row_ops.rope(x, 0, [1.0, 0.1], 1.0, False, False), ((2, 50, 3, 4),), 1),
    "position_scale": (lambda x: row_ops.position_scale(x, 0.1, 4, 1), ((2, 50, 3, 4),), 1),
    "jitter": (
        lambda x: counter_ops.jitter(x, torch.tensor(5), torch.tensor(0), 4, 0.01), ((8, 64),), 1
    ),
    "attention": (
        lambda q, k, v: attention_ops.attention(q, k, v, None, 0.3, 0, 0, 0.0)[0],
        ((2, 33, 4, 16), (2, 33, 2, 16), (2, 33, 2, 16)), 3,
    ),
    "attention with sinks": (
        lambda q, k, v, s: attention_ops.attention(q, k, v, s, 0.3, 0, 0, 0.0)[0],
        ((2, 33, 4, 16), (2, 33, 2, 16), (2, 33, 2, 16), (4,)), 3,
    ),
    "attention by blocks": (
        lambda q, k, v, s: attention_ops.attention(q, k, v, s, 0.3, 5, 0, 20.0)[0],
        ((2, 33, 4, 16), (2, 33, 2, 16), (2, 33, 2, 16), (4,)), 3,
    ),
}  # fmt: skip
"""What is computed, of operands of these shapes, of which the first so many are halves."""


@pytest.mark.parametrize("name", ROWS)
def test_of_halves_is_that_of_the_same_numbers_in_float32_rounded(name: str) -> None:
    """Value and gradients, relative to the largest: parameters of norms and sinks are float32 in both."""
    function, shapes, halves = ROWS[name]
    of_halves = [
        values(*s, seed=i, dtype=HALF if i < halves else torch.float32) for i, s in enumerate(shapes)
    ]
    of_floats = [values(*s, seed=i, dtype=torch.float32) for i, s in enumerate(shapes)]
    found, expected = function(*of_halves), function(*of_floats)
    grad = values(*expected.shape, seed=77).detach()
    close(found, expected, HALF)
    found_grads = torch.autograd.grad(found, of_halves, grad)
    expected_grads = torch.autograd.grad(expected, of_floats, grad.float())
    for one, other, given in zip(found_grads, expected_grads, of_halves, strict=True):
        close(one, other, given.dtype)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert (found.float() - expected).abs().max() <= ULP * expected.abs().max()


@pytest.mark.parametrize("width", [64, 20], ids=["one call", "a product an expert"])
def test_experts_products_of_halves_sum_in_float32(width: int) -> None:
    """Exact products and sums rounded once, whichever kernel; the middle expert has no row."""
    counts = torch.tensor([4, 0, 8])
    x, weight = values(12, width, seed=1), values(3, 24, width, seed=2)
    out = expert_ops.expert_mm(x, weight, counts)
    wide_x, wide_weight = (t.detach().float().requires_grad_() for t in (x, weight))
    expected = torch.cat([wide_x[:4] @ wide_weight[0].T, wide_x[4:] @ wide_weight[2].T])
    grad = values(12, 24, seed=3).detach()
    close(out, expected, HALF)
    found = torch.autograd.grad(out, (x, weight), grad)
    for one, other in zip(
        found, torch.autograd.grad(expected, (wide_x, wide_weight), grad.float()), strict=True
    ):
        close(one, other, HALF)
