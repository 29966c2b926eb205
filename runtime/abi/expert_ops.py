"""Operations of the experts: products of rows sorted by expert with their experts' matrices, and biases.

Rows of no expert may follow those of the last one: a tail. Products with a tail give zero there.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Legend: e experts of this rank, R rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .expert_kernels import (
    expert_add_kernel,
    expert_mm_kernel,
    expert_mm_weight_grad_kernel,
    expert_sum_kernel,
)
from .registry import operation


@operation("expert_mm")
def expert_mm(x: Tensor, weight: Tensor, counts: Tensor, tail: bool = False) -> Tensor:
    """(R, in), (e, out, in), (e,) int64 -> (R, out): rows sorted by expert, counts[i] of them times W_i^T.

    Counts add up to R, or with a `tail` to at most R.
    """
    return expert_mm_kernel(x, weight, counts, tail)


@expert_mm.register_fake
def _(x: Tensor, weight: Tensor, counts: Tensor, tail: bool = False) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[1]))


@operation("expert_mm_weight_grad")
def expert_mm_weight_grad(grad: Tensor, x: Tensor, counts: Tensor, tail: bool = False) -> Tensor:
    """(R, out), (R, in), (e,) -> (e, out, in): grad^T x over each expert's rows, zero where it has none."""
    return expert_mm_weight_grad_kernel(grad, x, counts, tail)


@expert_mm_weight_grad.register_fake
def _(grad: Tensor, x: Tensor, counts: Tensor, tail: bool = False) -> Tensor:
    return x.new_empty((counts.shape[0], grad.shape[1], x.shape[1]))


def _expert_mm_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.tail = inputs[3]


def _expert_mm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, counts = ctx.saved_tensors
    grad_x = expert_mm(grad, weight.transpose(1, 2), counts, ctx.tail)
    return grad_x, expert_mm_weight_grad(grad, x, counts, ctx.tail), None, None


expert_mm.register_autograd(_expert_mm_backward, setup_context=_expert_mm_saves)


@operation("expert_add")
def expert_add(x: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
    """(R, out), (e, out), (e,) int64 -> (R, out): bias[i] added to the counts[i] rows of expert i.

    A tail stays as it is.
    """
    return expert_add_kernel(x, bias, counts)


@expert_add.register_fake
def _(x: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@operation("expert_sum")
def expert_sum(rows: Tensor, counts: Tensor) -> Tensor:
    """(R, out), (e,) -> (e, out): the sum of each expert's rows, zero where it has none."""
    return expert_sum_kernel(rows, counts)


@expert_sum.register_fake
def _(rows: Tensor, counts: Tensor) -> Tensor:
    return rows.new_empty((counts.shape[0], rows.shape[1]))


def _expert_add_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(inputs[2])


def _expert_add_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    (counts,) = ctx.saved_tensors
    return grad, expert_sum(grad, counts), None


expert_add.register_autograd(_expert_add_backward, setup_context=_expert_add_saves)
