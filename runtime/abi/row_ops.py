"""Operations on rows and heads by themselves: norms and positions.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Legend: D width, B sequences, S tokens of a sequence, H heads, d head dim.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .registry import operation
from .row_kernels import rms_norm_backward_kernel, rms_norm_kernel, rope_kernel


@operation("rms_norm")
def rms_norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(..., D), (D,) -> x / rms(x) * weight (..., D), and 1 / rms (..., 1), kept for backward."""
    return rms_norm_kernel(x, weight, eps)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 1))


@operation("rms_norm_backward")
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `rms_norm` for x (..., D) and weight (D,)."""
    return rms_norm_backward_kernel(grad, x, weight, rstd)


@rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), weight.new_empty(weight.shape)


def _rms_norm_saves(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _rms_norm_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    return *rms_norm_backward(grad, *ctx.saved_tensors), None


rms_norm.register_autograd(_rms_norm_backward, setup_context=_rms_norm_saves)


@operation("rope")
def rope(x: Tensor, theta: float, inverse: bool) -> Tensor:
    """(B, S, H, d) -> the same: dims i and i + d/2 rotated by position * theta^(-2i/d); `inverse`: back."""
    return rope_kernel(x, theta, inverse)


@rope.register_fake
def _(x: Tensor, theta: float, inverse: bool) -> Tensor:
    return x.new_empty(x.shape)


def _rope_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.theta, ctx.inverse = inputs


def _rope_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return rope(grad, ctx.theta, not ctx.inverse), None, None


rope.register_autograd(_rope_backward, setup_context=_rope_saves)
