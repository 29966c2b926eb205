"""The loss of every token, without the logits of all of them.

Each is a `torch.library` custom op in the namespace `moec`: an implementation, a fake kernel that gives
shapes for tracing, and an autograd formula, so that tracing a region's backward traces theirs too.

Legend: T tokens, D width, V words.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .dtypes import wide
from .loss_kernels import Output, token_losses_backward_kernel, token_losses_kernel
from .registry import operation


@operation("token_losses")
def token_losses(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    softcap: float,
    chunk: int,
) -> Tensor:
    """(T, D), (V, D), (V,), (T,) int64 -> (T,): logsumexp of a token's logits less that of its target.

    logits = softcap * tanh(scale * (x W^T + b) / softcap); `softcap` 0: scale * (x W^T + b). A target of -100
    bears no loss. `chunk` tokens have logits at a time.
    """
    return token_losses_kernel(x, Output(weight, bias, scale, softcap), targets, chunk)


@token_losses.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    softcap: float,
    chunk: int,
) -> Tensor:
    return x.new_empty((x.shape[0],), dtype=wide(x))


@operation("token_losses_backward")
def token_losses_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    softcap: float,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `token_losses` for x, weight and bias, which is empty where there is none.

    `chunk` tokens have logits, and gradients of logits, at a time.
    """
    return token_losses_backward_kernel(grad, x, Output(weight, bias, scale, softcap), targets, chunk)


@token_losses_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    scale: float,
    softcap: float,
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    of_bias = weight.new_empty(0 if bias is None else bias.shape)
    return x.new_empty(x.shape), weight.new_empty(weight.shape), of_bias


def _token_losses_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = inputs[4:]


def _token_losses_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, bias, targets = ctx.saved_tensors
    of_x, of_weight, of_bias = token_losses_backward(grad, x, weight, bias, targets, *ctx.settings)
    return of_x, of_weight, None if bias is None else of_bias, None, None, None, None


token_losses.register_autograd(_token_losses_backward, setup_context=_token_losses_saves)
