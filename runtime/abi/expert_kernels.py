"""Grouped matrix products over rows sorted by expert, on whatever device and dtype the operands have.

`torch._grouped_mm` does all experts in one call where it accepts the operands; one product per expert
elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .guards import check_expert_mm, check_expert_mm_weight_grad

_GROUPED_CPU = (torch.float32, torch.bfloat16, torch.float16)
_GROUPED_CUDA = (torch.bfloat16,)
_ALIGNMENT_BYTES = 16  # of every row, asked for by torch._grouped_mm


def expert_mm_kernel(x: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """(R, in), (e, out, in), (e,) -> (R, out)."""
    check_expert_mm(x, weight, counts)
    x = x.contiguous()
    if _grouped_accepts(x, weight.shape[1], weight.shape[2]):
        return torch._grouped_mm(x, weight.transpose(1, 2), offs=_ends(counts))
    out = x.new_empty((x.shape[0], weight.shape[1]))
    sizes = counts.tolist()
    for rows, w, o in zip(torch.split(x, sizes), weight.unbind(), torch.split(out, sizes), strict=True):
        torch.mm(rows, w.t(), out=o)
    return out


def expert_mm_weight_grad_kernel(grad: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    """(R, out), (R, in), (e,) -> (e, out, in)."""
    check_expert_mm_weight_grad(grad, x, counts)
    grad, x = grad.contiguous(), x.contiguous()
    if _grouped_accepts(x, grad.shape[1], x.shape[1]):
        return torch._grouped_mm(grad.t(), x, offs=_ends(counts))
    out = x.new_empty((counts.shape[0], grad.shape[1], x.shape[1]))
    sizes = counts.tolist()
    for g, rows, o in zip(torch.split(grad, sizes), torch.split(x, sizes), out.unbind(), strict=True):
        torch.mm(g.t(), rows, out=o)
    return out


def _ends(counts: Tensor) -> Tensor:
    return counts.cumsum(0).to(torch.int32)


def _grouped_accepts(x: Tensor, *widths: int) -> bool:
    dtypes = _GROUPED_CUDA if x.is_cuda else _GROUPED_CPU
    return x.dtype in dtypes and all(width * x.element_size() % _ALIGNMENT_BYTES == 0 for width in widths)
