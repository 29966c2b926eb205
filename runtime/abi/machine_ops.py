"""Operations of a program that are not tensor arithmetic: parameters, collectives in halves, calls, updates.

The compiler puts these functions into its graphs as call targets; an executor runs them. Those that need a
transport or a state have no body here. In-place operations end in an underscore and are never moved or
dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .adamw import AdamW
from .collective_ops import NoTransportError
from .guards import check_adamw, require

MACHINE_OPS: dict[str, Callable[..., Any]] = {}
"""Name -> function, for everything below."""


def _machine(function: Callable[..., Any]) -> Callable[..., Any]:
    MACHINE_OPS[function.__name__] = function
    return function


# --- parameters and their gradients in flat buffers ---


@_machine
def parameter(buffer: Tensor, offset: int, shape: Sequence[int]) -> Tensor:
    """A view of a flat buffer (numel,) as one of its parameters."""
    size = prod(shape)
    fits = buffer.dim() == 1 and min(shape, default=0) >= 0 and 0 <= offset <= buffer.shape[0] - size
    require(fits, f"no parameter {tuple(shape)} lies at {offset}", buffer)
    return buffer.narrow(0, offset, size).view(tuple(shape))


@_machine
def pack(gradients: Sequence[Tensor], numel: int) -> Tensor:
    """Gradients of a buffer's parameters, in the order of its slots -> one (numel,), padded with zeros."""
    flat = [g.reshape(-1) for g in gradients]
    missing = numel - sum(len(g) for g in flat)
    require(len(flat) > 0 and missing >= 0, f"{numel} elements do not hold the gradients", *flat)
    return torch.cat([*flat, flat[0].new_zeros(missing)] if missing else flat)


# --- collectives: a start half that returns a handle, and a wait half that returns the tensor ---


@_machine
def all_to_all_start(x: Tensor, send: Tensor, receive: Tensor, rows: int, axis: str) -> Any:
    """As `ops.all_to_all`."""
    raise NoTransportError("all_to_all")


@_machine
def all_reduce_start(x: Tensor, axis: str) -> Any:
    """As `ops.all_reduce`."""
    raise NoTransportError("all_reduce")


@_machine
def shard_gather_start(shard: Tensor, ranks: int, axis: str) -> Any:
    """As `ops.shard_gather`."""
    raise NoTransportError("shard_gather")


@_machine
def reduce_scatter_start(full: Tensor, ranks: int, axis: str) -> Any:
    """As `ops.reduce_scatter`."""
    raise NoTransportError("reduce_scatter")


@_machine
def wait(handle: Any) -> Tensor:
    """The result of a collective that was started."""
    raise NoTransportError("wait")


# --- host memory: a copy, in the same two halves ---


@_machine
def offload_start(x: Tensor) -> Any:
    """A copy of x in host memory."""
    raise NoTransportError("offload")


@_machine
def load_start(x: Tensor) -> Any:
    """A copy of x, which is in host memory, on the device."""
    raise NoTransportError("load")


# --- programs ---


@_machine
def call(program: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
    """Run another program of the bundle."""
    raise NoTransportError("call")


@_machine
def getitem(values: Sequence[Any], index: int) -> Any:
    """An element of a result."""
    return values[index]


# --- the batch ---


@_machine
def select(x: Tensor, index: int) -> Tensor:
    """(M, ...) -> (...): one micro-batch, or one count."""
    return x[index]


@_machine
def batch_counts(targets: Tensor, sequences: Tensor) -> Tensor:
    """(M, B, S), (M,) -> (M + 2,) int64: loss-bearing tokens, real tokens, real tokens by micro-batch."""
    bearing = (targets != -100).sum().view(1)
    by_micro_batch = sequences * targets.shape[2]
    return torch.cat([bearing, by_micro_batch.sum().view(1), by_micro_batch])


# --- state, in place ---


@_machine
def zero_(x: Tensor) -> None:
    """Set to zero."""
    x.zero_()


@_machine
def accumulate_(total: Tensor, x: Tensor) -> None:
    """total += x."""
    total.add_(x)


@_machine
def copy_(target: Tensor, x: Tensor) -> None:
    """target = x."""
    target.copy_(x)


@_machine
def correct_(bias: Tensor, load: Tensor, rate: float, proceed: bool = True) -> None:
    """bias (E,) += rate * sign(mean(load) - load), load (E,) int64: choices of each expert by a whole batch.

    Wang et al., 2024, algorithm 1. The sign is taken of whole numbers, so that all ranks agree on it. Nothing
    is done unless `proceed`.
    """
    fits = bias.dim() == 1 and bias.shape == load.shape and load.dtype == torch.int64
    require(fits, "a bias has as many numbers as there are loads, and loads are int64", bias, load)
    if proceed:
        bias.add_((load.sum() - load * len(load)).sign().to(bias.dtype), alpha=rate)


@_machine
def sum_of_squares(x: Tensor) -> Tensor:
    """(numel,) -> (): in float32, or in float64 for float64."""
    norm: Tensor = torch.linalg.vector_norm(x, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm.square()


@_machine
def sound(losses: Tensor, norm: Tensor, limit: float) -> bool:
    """(K,), () -> whether a step may update: all are finite, and the first loss is at most `limit`.

    Losses and norm are the same on all ranks, so that all come to the same without a word. The host waits for
    the device here, once a step, as it does at the end of the step anyway.
    """
    require(losses.dim() == 1 and losses.numel() > 0 and norm.dim() == 0, "losses (K,) and a norm", losses)
    return is_sound(losses.tolist(), norm.item(), limit)


def is_sound(losses: Sequence[float], norm: float, limit: float) -> bool:
    """The judgement of `sound`, for who reads the results of a step."""
    return math.isfinite(norm) and all(map(math.isfinite, losses)) and losses[0] <= limit


@_machine
def clip_coefficient(norm: Tensor, limit: float) -> Tensor:
    """() -> (): factor of gradients, min(1, limit / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_."""
    return (limit / (norm + 1e-6)).clamp(max=1.0)


@_machine
def adamw_(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    step: Tensor,
    coefficient: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    proceed: bool = True,
) -> None:
    """One step of AdamW on flat shards (numel,), in place. Loshchilov and Hutter, 2019, algorithm 2.

    `step` () float counts updates from 1; `coefficient` () multiplies the gradient first. Nothing is done
    unless `proceed`: then the gradient stays as it is, too. Moments may be in bfloat16 beside float32: see
    `adamw.py` for how they are rounded.
    """
    check_adamw(parameter, gradient, exp_avg, exp_avg_sq, step)
    if not proceed:
        return
    if coefficient is not None:
        gradient.mul_(coefficient)
    adamw = AdamW(lr, beta1, beta2, eps, weight_decay)
    update = adamw.update if exp_avg.dtype == parameter.dtype else adamw.update_with_halves
    update(parameter, gradient, exp_avg, exp_avg_sq, step)
