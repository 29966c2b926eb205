"""Products, biases and sums of rows sorted by expert, with and without rows of no expert behind them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moec.runtime.abi import expert_kernels, expert_ops

from .routes import random

COUNTS = torch.tensor([2, 0, 3, 0])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    """Equal up to the rounding of float64 sums of some dozen terms of size one."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def plain_expert_mm(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    expert = torch.arange(len(counts)).repeat_interleave(counts)
    sent = torch.einsum("ri,roi->ro", x[: len(expert)], weight[expert])
    return torch.cat([sent, sent.new_zeros(len(x) - len(sent), sent.shape[1])])


def by_expert(rows: Tensor, counts: Tensor) -> list[Tensor]:
    return [*rows[: int(counts.sum())].split(counts.tolist())]


@pytest.mark.parametrize("tail", [0, 4])
@pytest.mark.parametrize("counts", [[2, 0, 3, 0], [0, 0, 0, 0], [0, 0, 0, 7], [1, 1, 1, 1]], ids=str)
@pytest.mark.parametrize(("width", "out"), [(4, 8), (8, 4), (3, 5), (4, 1), (1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_products_with_empty_experts_no_rows_and_odd_widths(
    counts: list[int], width: int, out: int, dtype: torch.dtype, tail: int
) -> None:
    """float32 of aligned widths takes torch's grouped product, all else a product per expert."""
    rows, more = sum(counts) + tail, tail > 0
    x, weight = random(rows, width).to(dtype), random(4, out, width, seed=1).to(dtype)
    grad, at = random(rows, out, seed=2).to(dtype), torch.tensor(counts)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    close(expert_ops.expert_mm(x, weight, at, more), plain_expert_mm(x, weight, at), tolerance)
    close(
        expert_ops.expert_mm(grad, weight.transpose(1, 2), at, more),
        plain_expert_mm(grad, weight.mT, at),
        tolerance,
    )
    pairs = zip(by_expert(grad, at), by_expert(x, at), strict=True)
    expected = torch.stack([g.T @ part for g, part in pairs])
    close(expert_ops.expert_mm_weight_grad(grad, x, at, more), expected, tolerance)


@pytest.mark.parametrize("tail", [0, 3])
@pytest.mark.parametrize("width", [4, 8, 20])
def test_both_kernels_of_products_agree(width: int, tail: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, grad = (
        random(5 + tail, width).float(),
        random(4, 12, width, seed=1).float(),
        random(5 + tail, 12, seed=2).float(),
    )
    assert expert_kernels._grouped_accepts(x, 12, width)

    def both() -> tuple[Tensor, Tensor]:
        more = tail > 0
        return (
            expert_ops.expert_mm(x, weight, COUNTS, more),
            expert_ops.expert_mm_weight_grad(grad, x, COUNTS, more),
        )

    grouped = both()
    monkeypatch.setattr(expert_kernels, "_grouped_accepts", lambda *_: False)
    for one, other in zip(grouped, both(), strict=True):
        close(one, other, 1e-6)


def test_what_a_tail_holds_is_not_looked_at() -> None:
    """Not a number there stays out of values and gradients."""
    x, grad = random(8, 4).float(), random(8, 8, seed=2).float()
    x[5:], grad[5:] = float("nan"), float("nan")
    weight = random(4, 8, 4, seed=1).float()
    close(expert_ops.expert_mm(x, weight, COUNTS, True)[5:], torch.zeros(3, 8))
    assert expert_ops.expert_mm_weight_grad(grad, x, COUNTS, True).isfinite().all()
    assert expert_ops.expert_sum(grad, COUNTS).isfinite().all()


@pytest.mark.parametrize("tail", [0, 3])
@pytest.mark.parametrize("counts", [[2, 0, 3, 0], [0, 0, 0, 0], [0, 0, 0, 7]], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_each_expert_has_a_bias_for_its_rows(counts: list[int], dtype: torch.dtype, tail: int) -> None:
    """A row of no expert has none."""
    at = torch.tensor(counts)
    x, bias = random(sum(counts) + tail, 5).to(dtype), random(4, 5, seed=1).to(dtype)
    expected = [part + b for part, b in zip(by_expert(x, at), bias, strict=True)]
    close(expert_ops.expert_add(x, bias, at), torch.cat([*expected, x[sum(counts) :]]))


@pytest.mark.parametrize("tail", [0, 3])
@pytest.mark.parametrize("counts", [[2, 0, 3, 0], [0, 0, 0, 0], [0, 0, 0, 7]], ids=str)
@pytest.mark.parametrize(("width", "dtype"), [(5, torch.float64), (5, torch.float32), (8, torch.float32)])
def test_sums_of_each_experts_rows(counts: list[int], width: int, dtype: torch.dtype, tail: int) -> None:
    at = torch.tensor(counts)
    rows = random(sum(counts) + tail, width).to(dtype)
    expected = torch.stack([part.sum(0) for part in by_expert(rows, at)])
    close(expert_ops.expert_sum(rows, at), expected, 1e-12 if dtype == torch.float64 else 1e-5)
