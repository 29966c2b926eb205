"""Operations on state and batches, against torch's own; and the instruction set as a whole."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch

from moec.runtime.abi import machine_ops as m
from moec.runtime.abi.collective_ops import NoTransportError
from moec.runtime.abi.instructions import (
    COLLECTIVE_STARTS,
    COPY_STARTS,
    INSTRUCTIONS,
    UnknownInstructionError,
    name_of,
)
from moec.runtime.abi.registry import KERNELS

from .routes import random


def test_a_parameter_is_a_view_of_its_buffer() -> None:
    buffer = torch.arange(10.0)
    view = m.parameter(buffer, 3, [2, 3])
    assert view.tolist() == [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    view.zero_()
    assert buffer.sum() == 0 + 1 + 2 + 9


@pytest.mark.parametrize("numel", [8, 11])
def test_pack_is_the_inverse_of_parameter_and_pads_with_zeros(numel: int) -> None:
    one, other = random(2, 3), random(2, seed=1)
    packed = m.pack([one.t().contiguous().t(), other], numel)
    assert packed.shape == (numel,)
    assert torch.equal(m.parameter(packed, 0, [2, 3]), one)
    assert torch.equal(m.parameter(packed, 6, [2]), other)
    assert packed[8:].abs().sum() == 0


def test_batch_counts() -> None:
    targets = torch.full((2, 3, 4), -100)
    targets[0, 0, :3], targets[1, 1, 2] = 7, 0
    assert m.batch_counts(targets, torch.tensor([3, 1])).tolist() == [4, 16, 12, 4]


def test_state_is_changed_in_place() -> None:
    x = torch.ones(3)
    address = x.data_ptr()
    m.accumulate_(x, torch.tensor([1.0, 2.0, 3.0]))
    assert x.tolist() == [2.0, 3.0, 4.0]
    m.copy_(x, torch.tensor([5.0, 6.0, 7.0]))
    assert m.select(x, 1) == 6.0
    m.zero_(x)
    assert x.tolist() == [0.0] * 3
    assert x.data_ptr() == address


def test_a_correction_follows_the_load() -> None:
    """Up where there was less than the mean, down where there was more, and nothing at the mean."""
    bias = torch.tensor([0.5, -1.0, 0.0, 2.0])
    m.correct_(bias, torch.tensor([3, 9, 6, 6]), 0.25)
    assert bias.tolist() == [0.75, -1.25, 0.0, 2.0]
    m.correct_(bias, torch.tensor([0, 0, 0, 1]), 0.25)  # the mean, 1/4, is no whole number
    assert bias.tolist() == [1.0, -1.0, 0.25, 1.75]


def test_a_correction_is_exact_for_any_load() -> None:
    """A difference of one among 10^12 choices, which float32 would not see."""
    bias = torch.zeros(2)
    m.correct_(bias, torch.tensor([10**12, 10**12 + 1]), 1.0)
    assert bias.tolist() == [1.0, -1.0]


@pytest.mark.parametrize(
    ("bias", "load"), [(torch.zeros(3), torch.zeros(2).long()), (torch.zeros(2), torch.zeros(2))]
)
def test_a_correction_needs_a_load_of_every_expert(bias: torch.Tensor, load: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="as many numbers as there are loads"):
        m.correct_(bias, load, 0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_sum_of_squares_is_made_in_float32_or_more(dtype: torch.dtype) -> None:
    x = torch.full((10_000,), 0.5, dtype=dtype)
    found = m.sum_of_squares(x)
    assert found.dtype == torch.promote_types(dtype, torch.float32)
    assert found.item() == pytest.approx(2500.0, rel=1e-6)
    assert m.sum_of_squares(x[:0]).item() == 0.0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_clipping_is_that_of_torch(scale: float) -> None:
    parameter = torch.zeros(5, requires_grad=True)
    parameter.grad = (random(5) * scale).float()
    gradient = parameter.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_([parameter], 1.0)
    torch.testing.assert_close(gradient * m.clip_coefficient(norm, 1.0), parameter.grad)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("coefficient", [None, 0.5])
def test_adamw_is_that_of_torch(weight_decay: float, coefficient: float | None) -> None:
    """Three updates, float64; the gradient is multiplied with the coefficient first."""
    start = random(6)
    expected = start.clone().requires_grad_()
    settings = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": weight_decay}
    optimizer = torch.optim.AdamW([expected], **settings)  # type: ignore[arg-type]
    parameter, exp_avg, exp_avg_sq = start.clone(), torch.zeros(6).double(), torch.zeros(6).double()
    for step in range(1, 4):
        gradient = random(6, seed=step)
        expected.grad = gradient * (coefficient or 1.0)
        optimizer.step()
        factor = None if coefficient is None else torch.tensor(coefficient)
        count = torch.tensor(float(step))
        m.adamw_(
            parameter, gradient, exp_avg, exp_avg_sq, count, factor, 1e-2, 0.9, 0.95, 1e-8, weight_decay
        )  # fmt: skip
        assert count == step
    torch.testing.assert_close(parameter, expected.detach(), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        (m.all_to_all_start, (None, None, None, 0, "data")),
        (m.all_reduce_start, (None, "data")),
        (m.shard_gather_start, (None, 1, "data")),
        (m.reduce_scatter_start, (None, 1, "data")),
        (m.wait, (None,)),
        (m.call, ("step", [])),
    ],
)
def test_what_only_an_executor_can_do_says_so(operation: Callable[..., Any], arguments: Any) -> None:
    with pytest.raises(NoTransportError, match="only an executor"):
        operation(*arguments)


def torch_operation(name: str) -> Any:
    """That of the name `aten.<packet>.<overload>`."""
    return operator.attrgetter(name)(torch.ops)


def target_of(name: str) -> object:
    """What a graph calls, where that is not what an executor calls."""
    kind, _, operation = name.partition(".")
    if kind == "int":
        return getattr(operator, operation)
    if kind == "aten":
        return torch_operation(name)
    return getattr(torch.ops.moec, operation).default if operation in KERNELS else None


def test_every_instruction_has_one_name() -> None:
    """A call target of a graph leads to the name that leads to its function."""
    for name, function in INSTRUCTIONS.items():
        assert name_of(target_of(name) or function) == name
    assert name_of(operator.getitem) == "moec.getitem"


def test_what_is_not_in_the_list_has_no_name() -> None:
    for stranger in (torch.ops.aten.uniform_.default, torch.load, eval):
        with pytest.raises(UnknownInstructionError):
            name_of(stranger)


def test_the_instruction_set_neither_reads_nor_draws_nor_stores() -> None:
    """Nothing but arithmetic on what a program is given, and its own operations on state."""
    assert {name.split(".")[0] for name in INSTRUCTIONS} == {"aten", "moec", "int"}
    in_place = {name for name in INSTRUCTIONS if name.split(".")[1].endswith("_")}
    assert in_place == {"moec.zero_", "moec.accumulate_", "moec.copy_", "moec.correct_", "moec.adamw_"}
    for name in (n for n in INSTRUCTIONS if n.startswith("aten.")):
        function = torch_operation(name)
        assert not function._schema.is_mutable, name
        assert torch.Tag.nondeterministic_seeded not in function.tags, name


def test_collectives_are_instructions_that_end_with_an_axis() -> None:
    assert set(INSTRUCTIONS) >= COLLECTIVE_STARTS
    assert {name for name in INSTRUCTIONS if name.endswith("_start")} == COLLECTIVE_STARTS | COPY_STARTS
