"""Kernels of the loss over chunks of tokens: at no time is there more than a chunk's logits.

Legend: T tokens, C tokens of a chunk, D width, V words.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .dtypes import wide
from .guards import check_alike, require

IGNORED = -100


@dataclass(frozen=True)
class Output:
    """logits = softcap(scale * (x W^T + b)): W (V, D), b (V,); no cap if `softcap` is 0.

    The product is in the dtype of x and W, everything after it in float32, or in float64 where they are.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float

    def product(self, x: Tensor) -> Tensor:
        """(C, D) -> (C, V), wide."""
        return torch.nn.functional.linear(x, self.weight, self.bias).to(wide(x))

    def scaled(self, product: Tensor) -> Tensor:
        """(C, V) -> (C, V): before the cap."""
        return product if self.scale == 1.0 else product * self.scale

    def capped(self, scaled: Tensor) -> tuple[Tensor, Tensor | None]:
        """(C, V) -> logits, and the tanh in them."""
        if not self.softcap:
            return scaled, None
        tanh = (scaled / self.softcap).tanh()
        return tanh * self.softcap, tanh

    def product_grad(self, grad: Tensor, tanh: Tensor | None) -> Tensor:
        """The gradient of logits (C, V) -> that of the product, in its dtype."""
        if tanh is not None:
            grad = torch.ops.aten.tanh_backward.default(grad * self.softcap, tanh) / self.softcap
        if self.scale != 1.0:
            grad = grad * self.scale
        return grad.to(self.weight.dtype)


def token_losses_kernel(x: Tensor, output: Output, targets: Tensor, chunk: int) -> Tensor:
    """(T, D), (T,) int64 -> (T,)."""
    _check(x, output, targets, chunk)
    losses = x.new_zeros(targets.shape, dtype=wide(x))
    for part in _parts(len(targets), chunk):
        logits, _ = output.capped(output.scaled(output.product(x[part])))
        picked, bears = _picked(targets[part])
        found = logits.log_softmax(1).gather(1, picked).squeeze(1).neg()
        losses[part] = torch.where(bears, found, 0.0)
    return losses


def token_losses_backward_kernel(
    grad: Tensor, x: Tensor, output: Output, targets: Tensor, chunk: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for x (T, D), the matrix (V, D) and the bias (V,), which is empty where there is none.

    Logits are computed again. The sums over chunks are wide.
    """
    _check(x, output, targets, chunk)
    require(grad.shape == targets.shape and grad.dtype == wide(x), "one wide gradient a token", grad, targets)
    weight, bias = output.weight, output.bias
    grad_x = torch.empty_like(x)
    of_weight = torch.zeros_like(weight, dtype=wide(x), memory_format=torch.contiguous_format)
    of_bias = weight.new_zeros(0 if bias is None else bias.shape, dtype=wide(x))
    for part in _parts(len(targets), chunk):
        of_product = _product_grad(grad[part], x[part], output, targets[part])
        grad_x[part] = of_product @ weight
        of_weight += of_product.t() @ x[part]
        if bias is not None:
            of_bias += of_product.sum(0)
    return grad_x, of_weight.to(weight.dtype), of_bias.to(weight.dtype)


def _product_grad(grad: Tensor, x: Tensor, output: Output, targets: Tensor) -> Tensor:
    """(C,), (C, D), (C,) -> (C, V): the gradient of the product x W^T + b of one chunk."""
    logits, tanh = output.capped(output.scaled(output.product(x)))
    logs = logits.log_softmax(1)
    del logits
    picked, bears = _picked(targets)
    of_logs = torch.zeros_like(logs).scatter_(1, picked, torch.where(bears, grad, 0.0).neg().unsqueeze(1))
    of_logits = torch.ops.aten._log_softmax_backward_data.default(of_logs, logs, 1, logs.dtype)
    return output.product_grad(of_logits, tanh)


def _picked(targets: Tensor) -> tuple[Tensor, Tensor]:
    """(C,) -> (C, 1), a word for every token, and (C,), whether the token bears a loss."""
    bears = targets != IGNORED
    return torch.where(bears, targets, 0).unsqueeze(1), bears


def _parts(tokens: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk))


def _check(x: Tensor, output: Output, targets: Tensor, chunk: int) -> None:
    weight, bias = output.weight, output.bias
    fits = x.dim() == weight.dim() == 2 and x.shape[1] == weight.shape[1] and weight.shape[0] > 0
    require(fits and x.dtype.is_floating_point, "rows go with a matrix", x, weight)
    require(targets.shape == x.shape[:1] and targets.dtype == torch.int64, "one target a row", x, targets)
    require(
        bias is None or bias.shape == weight.shape[:1],
        "one bias a word",
        weight,
        *(() if bias is None else (bias,)),
    )
    check_alike(x, weight, *(() if bias is None else (bias,)))
    require(targets.device == x.device, "targets are where the rows are")
    require(chunk > 0, f"chunks of {chunk} tokens")
    if targets.device.type == "cpu":
        words = torch.logical_or(
            targets == IGNORED, torch.logical_and(targets >= 0, targets < weight.shape[0])
        )
        require(bool(words.all()), f"targets are below {weight.shape[0]}, or {IGNORED}", targets)
