"""AdamW with moments in bfloat16: each step is that of float32 moments, rounded without bias."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moec.runtime.abi import adamw
from moec.runtime.abi.adamw import rounded
from moec.runtime.abi.machine_ops import adamw_

HALF = torch.bfloat16


def numbers(count: int, seed: int) -> Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


def step_of(state: list[Tensor], update: int, beta2: float = 0.999) -> None:
    adamw_(*state, torch.tensor(float(update)), None, 1e-2, 0.9, beta2, 1e-8, 0.1)


def test_a_step_is_that_of_float32_moments_which_are_rounded_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Parameters bit for bit, in blocks of any size; moments to one of their two neighbours in bfloat16."""
    state = [
        numbers(1000, 0),
        numbers(1000, 1),
        numbers(1000, 2).to(HALF),
        numbers(1000, 3).square().to(HALF),
    ]
    wide = [t.float().clone() for t in state]
    step_of(wide, 7)
    monkeypatch.setattr(adamw, "BLOCK", 96)
    step_of(state, 7)
    assert torch.equal(state[0], wide[0])
    for found, exact in zip(state[2:], wide[2:], strict=True):
        assert found.dtype == HALF
        assert (found.float() - exact).abs().max() <= (2.0**-7 * exact.abs()).max()
        assert ((found.float() - exact).abs() < 2.0**-7 * exact.abs()).all()
        assert not torch.equal(found, exact.to(HALF)), "the nearest is not always taken"


def test_rounding_is_right_on_average() -> None:
    """Over 4096 updates the mean error of a number between two of bfloat16 is within 5 deviations of 0."""
    x, count = numbers(64, 4), 4096
    found = torch.stack([rounded(x, x, torch.tensor(float(step))).double() for step in range(count)])
    low, high = found.min(0).values, found.max(0).values
    gap = high - low
    assert (gap > 0).all()
    assert ((low < x) & (x < high)).all()
    assert ((found == low) | (found == high)).all(), "one of the two neighbours"
    deviation = 0.5 * gap / count**0.5  # of the mean of so many tosses, at most
    assert ((found.mean(0) - x.double()).abs() <= 5 * deviation).all()


def test_numbers_of_bfloat16_stay_and_what_is_not_finite_stays_so() -> None:
    exact = numbers(1000, 5).to(HALF)
    for step in (1.0, 2.0, 1e6):
        assert torch.equal(rounded(exact.float(), exact.float(), torch.tensor(step)), exact)
    odd = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, -torch.nan])
    payload = torch.tensor([0x7FFFFFFF, -1], dtype=torch.int32).view(torch.float32)  # numbers that are none
    for x in (odd, payload):
        found = rounded(x, x, torch.tensor(3.0)).float()
        torch.testing.assert_close(found, x, rtol=0.0, atol=0.0, equal_nan=True)


def test_a_moment_fades_although_each_change_is_smaller_than_a_unit_in_its_last_place() -> None:
    """v of beta2 = 0.999 without gradients: 0.999^1000 = 0.368 of it, where the nearest would leave it."""
    count = 4096
    state = [
        numbers(count, 6),
        torch.zeros(count),
        torch.zeros(count, dtype=HALF),
        torch.ones(count, dtype=HALF),
    ]
    assert (torch.ones(1) * 0.999).to(HALF) == 1.0
    for update in range(1, 1001):
        step_of(state, update)
    assert state[3].float().mean() == pytest.approx(0.999**1000, rel=0.01)


def test_moments_of_another_dtype_are_refused() -> None:
    state = [torch.zeros(4) for _ in range(4)]
    for wrong in ([torch.float64, HALF], [torch.float64] * 2, [torch.float16] * 2, [HALF, torch.float32]):
        moments = [t.to(dtype) for t, dtype in zip(state[2:], wrong, strict=True)]
        with pytest.raises(ValueError, match="one dtype"):
            step_of([*state[:2], *moments], 1)
    wide = [torch.zeros(4, dtype=torch.float64) for _ in range(2)]
    with pytest.raises(ValueError, match="one dtype"):
        step_of([*wide, *(t.to(HALF) for t in state[2:])], 1)
