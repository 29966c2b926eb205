"""Learning rates are those that PyTorch and transformers give for the same schedule."""

import math
from collections.abc import Callable

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.errors import UserError
from moec.runtime.schedule import Constant, Cosine, Schedule, factor, learning_rate, steps_to_do

LR = 3e-4


def rates(
    make: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler], steps: int
) -> list[float]:
    """The rate that an optimizer under a scheduler has in each update."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def ours(schedule: Schedule, steps: int) -> list[float]:
    return [learning_rate(step, steps, LR, schedule) for step in range(steps)]


SIZES = pytest.mark.parametrize(
    ("warmup", "steps"), [(0, 50), (10, 50), (1, 2), (50, 50), (60, 50), (49, 50), (0, 1)]
)


@SIZES
def test_cosine_without_floor_is_the_one_of_transformers(warmup: int, steps: int) -> None:
    expected = rates(lambda o: transformers.get_cosine_schedule_with_warmup(o, warmup, steps), steps)
    assert ours(Cosine(warmup), steps) == expected


@SIZES
def test_constant_is_the_one_of_transformers(warmup: int, steps: int) -> None:
    expected = rates(lambda o: transformers.get_constant_schedule_with_warmup(o, warmup), steps)
    assert ours(Constant(warmup), steps) == expected


@SIZES
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_cosine_with_floor_is_the_formula_under_lambda_lr(warmup: int, steps: int, floor: float) -> None:
    def formula(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        progress = (step - warmup) / max(1, steps - warmup)
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2

    expected = rates(lambda o: torch.optim.lr_scheduler.LambdaLR(o, formula), steps)
    assert ours(Cosine(warmup, floor), steps) == pytest.approx(expected, rel=1e-14)


@settings(deadline=None)
@given(st.integers(0, 300), st.integers(1, 300), st.floats(0, 1))
def test_the_factor_rises_to_one_then_falls_to_the_floor_and_stays(
    warmup: int, steps: int, floor: float
) -> None:
    factors = [factor(step, steps, Cosine(warmup, floor)) for step in range(warmup + steps + 20)]
    assert factors[: warmup + 1] == sorted(factors[: warmup + 1])
    assert factors[warmup] == pytest.approx(1.0) or steps <= warmup
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[-1] == pytest.approx(floor, abs=1e-15)


def test_a_run_does_its_steps_or_fewer() -> None:
    assert [steps_to_do(wanted, 20) for wanted in (None, 1, 20)] == [20, 1, 20]
    with pytest.raises(UserError, match=r"--steps 21: the run has 20 steps; .* --set train\.steps=21"):
        steps_to_do(21, 20)
