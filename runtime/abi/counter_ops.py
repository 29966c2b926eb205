"""Operations whose numbers come from counters: noise of a router's input, a choice by hash, an order.

Legend: T tokens, D width, B sequences, S tokens of a sequence, K choices, E experts.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .counter_kernels import hash_experts_kernel, jitter_kernel, random_order_kernel
from .registry import operation


@operation("jitter")
def jitter(x: Tensor, key: Tensor, first: Tensor, sequence: int, eps: float) -> Tensor:
    """(T, D), () and () int64 -> x times uniform numbers from [1 - eps, 1 + eps), see `jitter_kernel`."""
    return jitter_kernel(x, key, first, sequence, eps)


@jitter.register_fake
def _(x: Tensor, key: Tensor, first: Tensor, sequence: int, eps: float) -> Tensor:
    return x.new_empty(x.shape)


def _jitter_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, key, first, ctx.sequence, ctx.eps = inputs
    ctx.save_for_backward(key, first)


def _jitter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """The numbers are made again, as a gradient passes each."""
    return jitter(grad, *ctx.saved_tensors, ctx.sequence, ctx.eps), None, None, None, None


jitter.register_autograd(_jitter_backward, setup_context=_jitter_saves)


@operation("hash_experts")
def hash_experts(tokens: Tensor, k: int, experts: int) -> Tensor:
    """(B, S) int64 -> (T, K) int64: different experts of each token, see `hash_experts_kernel`."""
    return hash_experts_kernel(tokens, k, experts)


@hash_experts.register_fake
def _(tokens: Tensor, k: int, experts: int) -> Tensor:
    return tokens.new_empty((tokens.numel(), k))


@operation("random_order")
def random_order(key: Tensor, first: Tensor, tokens: int) -> Tensor:
    """() and () int64 -> a permutation (T,) int64, see `random_order_kernel`."""
    return random_order_kernel(key, first, tokens)


@random_order.register_fake
def _(key: Tensor, first: Tensor, tokens: int) -> Tensor:
    return key.new_empty((tokens,))
