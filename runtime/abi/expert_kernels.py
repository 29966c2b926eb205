"""Grouped matrix products over rows sorted by expert, on whatever device and dtype the operands have.

`torch._grouped_mm` does all experts in one call where it accepts the operands; one product per expert
elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .guards import check_counts, check_expert_add, check_expert_mm, check_expert_mm_weight_grad, check_rows

_GROUPED_CPU = (torch.float32, torch.bfloat16, torch.float16)
_GROUPED_CUDA = (torch.bfloat16,)
_ALIGNMENT_BYTES = 16  # of every row, asked for by torch._grouped_mm


def expert_mm_kernel(x: Tensor, weight: Tensor, counts: Tensor, tail: bool = False) -> Tensor:
    """(R, in), (e, out, in), (e,) -> (R, out)."""
    check_expert_mm(x, weight, counts, tail)
    x = x.contiguous()
    if _grouped_accepts(x, weight.shape[1], weight.shape[2]):
        out = torch._grouped_mm(x, weight.transpose(1, 2), offs=_ends(counts))
    else:
        out = x.new_empty((x.shape[0], weight.shape[1]))
        for rows, w, o in zip(_split(x, counts), weight.unbind(), _split(out, counts), strict=True):
            torch.mm(rows, w.t(), out=o)
    if tail:  # both ways left it as it was
        row = torch.arange(x.shape[0], device=x.device)
        out.masked_fill_((row >= counts.sum()).unsqueeze(1), 0.0)
    return out


def expert_mm_weight_grad_kernel(grad: Tensor, x: Tensor, counts: Tensor, tail: bool = False) -> Tensor:
    """(R, out), (R, in), (e,) -> (e, out, in)."""
    check_expert_mm_weight_grad(grad, x, counts, tail)
    grad, x = grad.contiguous(), x.contiguous()
    if _grouped_accepts(x, grad.shape[1], x.shape[1]):
        return torch._grouped_mm(grad.t(), x, offs=_ends(counts))
    out = x.new_empty((counts.shape[0], grad.shape[1], x.shape[1]))
    for g, rows, o in zip(_split(grad, counts), _split(x, counts), out.unbind(), strict=True):
        torch.mm(g.t(), rows, out=o)
    return out


def expert_add_kernel(x: Tensor, bias: Tensor, counts: Tensor) -> Tensor:
    """(R, out), (e, out), (e,) -> (R, out)."""
    check_expert_add(x, bias, counts)
    row = torch.arange(x.shape[0], device=x.device)
    expert = torch.searchsorted(counts.cumsum(0), row, right=True)  # e for what is behind the last
    return torch.cat([bias, bias.new_zeros((1, bias.shape[1]))]).index_select(0, expert).add_(x)


def expert_sum_kernel(rows: Tensor, counts: Tensor) -> Tensor:
    """(R, out), (e,) -> (e, out): as a product with ones, whose order of sums is always the same."""
    check_rows(rows)
    check_counts(counts, rows.shape[0], tail=True)
    ones = rows.new_ones((rows.shape[0], _ALIGNMENT_BYTES // rows.element_size()))
    return expert_mm_weight_grad_kernel(rows, ones, counts, tail=True)[:, :, 0].contiguous()


def _split(rows: Tensor, counts: Tensor) -> list[Tensor]:
    """The rows of each expert, without a tail."""
    sizes = counts.tolist()
    return list(torch.split(rows[: sum(sizes)], sizes))


def _ends(counts: Tensor) -> Tensor:
    return counts.cumsum(0).to(torch.int32)


def _grouped_accepts(x: Tensor, *widths: int) -> bool:
    dtypes = _GROUPED_CUDA if x.is_cuda else _GROUPED_CPU
    return x.dtype in dtypes and all(width * x.element_size() % _ALIGNMENT_BYTES == 0 for width in widths)
