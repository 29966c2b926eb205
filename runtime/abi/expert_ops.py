"""Operations of the experts: products of rows sorted by expert with their experts' matrices.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Legend: e experts of this rank, R rows.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .expert_kernels import expert_mm_kernel, expert_mm_weight_grad_kernel
from .registry import operation


@operation("expert_mm")
def expert_mm(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """(R, in), (e, out, in), (e,) int64 -> (R, out): rows sorted by expert, counts[i] of them times W_i^T."""
    return expert_mm_kernel(x, weight, counts)


@expert_mm.register_fake
def _(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty((x.shape[0], weight.shape[1]))


@operation("expert_mm_weight_grad")
def expert_mm_weight_grad(grad: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    """(R, out), (R, in), (e,) -> (e, out, in): grad^T x over each expert's rows, zero where it has none."""
    return expert_mm_weight_grad_kernel(grad, x, counts)


@expert_mm_weight_grad.register_fake
def _(grad: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    return x.new_empty((counts.shape[0], grad.shape[1], x.shape[1]))


def _expert_mm_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _expert_mm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, counts = ctx.saved_tensors
    return expert_mm(grad, weight.transpose(1, 2), counts), expert_mm_weight_grad(grad, x, counts), None


expert_mm.register_autograd(_expert_mm_backward, setup_context=_expert_mm_saves)
