"""The collectives of the instruction set: they name a mesh *axis*, never ranks.

Only an executor knows who is on an axis, so running one outside an executor is an error; fake kernels and
autograd formulas are what tracing needs.

Legend: n ranks on the axis, r rows or elements of each.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .registry import operation


class NoTransportError(RuntimeError):
    """A collective was called outside an executor."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} moves data between ranks: only an executor with a transport can run it")


@operation("all_to_all")
def all_to_all(x: Tensor, send: Tensor, receive: Tensor, rows: int, axis: str) -> Tensor:
    """(r, ...) -> (rows, ...): the first send[0] rows to member 0 of `axis`, and so on.

    `send`, `receive`: (n,) int64 counts of rows. Rows of `x` behind the last one sent stay here; behind what
    arrives, up to `rows`, there are zeros.
    """
    raise NoTransportError("all_to_all")


@all_to_all.register_fake
def _(x: Tensor, send: Tensor, receive: Tensor, rows: int, axis: str) -> Tensor:
    return x.new_empty((rows, *x.shape[1:]))


def _all_to_all_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, send, receive, _, ctx.axis = inputs
    ctx.rows = x.shape[0]
    ctx.save_for_backward(send, receive)


def _all_to_all_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    send, receive = ctx.saved_tensors
    return all_to_all(grad, receive, send, ctx.rows, ctx.axis), None, None, None, None


all_to_all.register_autograd(_all_to_all_backward, setup_context=_all_to_all_saves)


@operation("all_reduce")
def all_reduce(x: Tensor, axis: str) -> Tensor:
    """The sum of `x` over the members of `axis`.

    Not differentiable: it carries statistics and finished gradients.
    """
    raise NoTransportError("all_reduce")


@all_reduce.register_fake
def _(x: Tensor, axis: str) -> Tensor:
    return torch.empty_like(x)


@operation("member")
def member(like: Tensor, axis: str) -> Tensor:
    """() int64, where `like` is: the place of this rank on `axis`, by which one program serves all ranks."""
    raise NoTransportError("member")


@member.register_fake
def _(like: Tensor, axis: str) -> Tensor:
    return like.new_empty((), dtype=torch.int64)


@operation("shard_gather")
def shard_gather(shard: Tensor, ranks: int, axis: str) -> Tensor:
    """(r,) of every member -> (ranks * r,): a parameter buffer from its shards, or everybody's tokens."""
    raise NoTransportError("shard_gather")


@shard_gather.register_fake
def _(shard: Tensor, ranks: int, axis: str) -> Tensor:
    return shard.new_empty((shard.shape[0] * ranks,))


@operation("reduce_scatter")
def reduce_scatter(full: Tensor, ranks: int, axis: str) -> Tensor:
    """(ranks * r,) -> (r,): this member's block of the sum over members; a gradient returns to its shard."""
    raise NoTransportError("reduce_scatter")


@reduce_scatter.register_fake
def _(full: Tensor, ranks: int, axis: str) -> Tensor:
    return full.new_empty((full.shape[0] // ranks,))


def _gather_saves(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, ctx.ranks, ctx.axis = inputs


def _shard_gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Every member has a gradient of the whole."""
    return reduce_scatter(grad.contiguous(), ctx.ranks, ctx.axis), None, None


def _reduce_scatter_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """A summand has the gradient of the sum, from the member that has that."""
    return shard_gather(grad.contiguous(), ctx.ranks, ctx.axis), None, None


shard_gather.register_autograd(_shard_gather_backward, setup_context=_gather_saves)
reduce_scatter.register_autograd(_reduce_scatter_backward, setup_context=_gather_saves)
