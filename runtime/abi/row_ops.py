"""Operations on rows and heads by themselves: norms and positions.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Parameters of norms, and what norms keep for backward, are `wide`: in float32 for halves.

Legend: D width, B sequences, S tokens of a sequence, H heads, d head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .dtypes import wide
from .registry import operation
from .row_kernels import (
    layer_norm_backward_kernel,
    layer_norm_kernel,
    position_scale_kernel,
    rms_norm_backward_kernel,
    rms_norm_kernel,
    rope_kernel,
)

# --- root mean square norm ---


@operation("rms_norm")
def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """(..., D), (D,) -> x / rms(x) * weight (..., D), and 1 / rms (..., 1), kept for backward."""
    return rms_norm_kernel(x, weight, eps)


@rms_norm.register_fake
def _(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty((*x.shape[:-1], 1), dtype=wide(x))


@operation("rms_norm_backward")
def rms_norm_backward(grad: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of `rms_norm` for x (..., D) and weight (D,), which is empty where there is none."""
    return rms_norm_backward_kernel(grad, x, weight, rstd)


@rms_norm_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), _like(weight, x)


def _rms_norm_saves(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[1])


def _rms_norm_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, rstd = ctx.saved_tensors
    grad_x, grad_weight = rms_norm_backward(grad, x, weight, rstd)
    return grad_x, None if weight is None else grad_weight, None


rms_norm.register_autograd(_rms_norm_backward, setup_context=_rms_norm_saves)


# --- layer norm ---


@operation("layer_norm")
def layer_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(..., D), (D,), (D,) -> (x - mean) / sqrt(var + eps) * weight + bias (..., D).

    And mean and 1 / sqrt(var + eps), (..., 1) each, kept for backward.
    """
    return layer_norm_kernel(x, weight, bias, eps)


@layer_norm.register_fake
def _(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.new_empty((*x.shape[:-1], 1), dtype=wide(x))
    return x.new_empty(x.shape), rows, torch.empty_like(rows)


@operation("layer_norm_backward")
def layer_norm_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `layer_norm` for x (..., D), weight and bias (D,); empty where there is none."""
    return layer_norm_backward_kernel(grad, x, weight, bias, mean, rstd)


@layer_norm_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape), _like(weight, x), _like(bias, x)


def _layer_norm_saves(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output[1:])


def _layer_norm_backward(ctx: Any, grad: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    x, weight, bias, mean, rstd = ctx.saved_tensors
    found = layer_norm_backward(grad, x, weight, bias, mean, rstd)
    return found[0], None if weight is None else found[1], None if bias is None else found[2], None


layer_norm.register_autograd(_layer_norm_backward, setup_context=_layer_norm_saves)


def _like(parameter: Tensor | None, x: Tensor) -> Tensor:
    """A gradient of `parameter`; of none, nothing."""
    return x.new_empty(0 if parameter is None else parameter.shape, dtype=wide(x))


# --- positions ---


@operation("rope")
def rope(
    x: Tensor, start: int, frequencies: Sequence[float], magnitude: float, interleaved: bool, inverse: bool
) -> Tensor:
    """(B, S, H, d) -> the same: n pairs of dims turned by position * frequency and stretched by `magnitude`.

    With n frequencies, pair i is dims start + i and start + n + i, or `interleaved` start + 2 i and
    start + 2 i + 1. Other dims stay. `inverse` turns back, and stretches as well: it is the transpose.
    """
    return rope_kernel(x, start, tuple(frequencies), magnitude, interleaved, inverse)


@rope.register_fake
def _(
    x: Tensor, start: int, frequencies: Sequence[float], magnitude: float, interleaved: bool, inverse: bool
) -> Tensor:
    return x.new_empty(x.shape)


def _rope_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.turn = inputs[1:]


def _rope_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *turn, inverse = ctx.turn
    return rope(grad, *turn, not inverse), None, None, None, None, None


rope.register_autograd(_rope_backward, setup_context=_rope_saves)


@operation("position_scale")
def position_scale(x: Tensor, scale: float, period: int, offset: int) -> Tensor:
    """(B, S, H, d) -> position p of it times 1 + scale * ln(1 + floor((p + offset) / period))."""
    return position_scale_kernel(x, scale, period, offset)


@position_scale.register_fake
def _(x: Tensor, scale: float, period: int, offset: int) -> Tensor:
    return x.new_empty(x.shape)


def _position_scale_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.factors = inputs[1:]


def _position_scale_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return position_scale(grad, *ctx.factors), None, None, None


position_scale.register_autograd(_position_scale_backward, setup_context=_position_scale_saves)
