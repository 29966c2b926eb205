"""Causal attention and its backward, on whatever device the operands are.

On a CPU these are torch's flash kernels, called directly so that forward hands its logsumexp to backward. On
other devices torch chooses the kernel, and backward runs it again under autograd.

Legend: B sequences, S tokens, H query heads, h key heads (h divides H), d head dim.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .guards import check_attention, check_attention_backward

_aten = torch.ops.aten


def attention_kernel(q: Tensor, k: Tensor, v: Tensor, scale: float, window: int) -> tuple[Tensor, Tensor]:
    """(B, S, H, d), (B, S, h, d), (B, S, h, d) -> (B, S, H, d), logsumexp (B, H, S)."""
    check_attention(q, k, v, window)
    mask = _window_mask(q.shape[1], window, q.dtype, q.device)
    qt, kt, vt = (_by_head(t) for t in (q, k, v))
    if q.device.type == "cpu":
        out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
            qt, kt, vt, 0.0, mask is None, attn_mask=mask, scale=scale
        )
        return out.transpose(1, 2).contiguous(), lse
    out = _any_device(qt, kt, vt, scale, mask)
    # Backward does not read it: the result keeps the shape that the instruction promises.
    lse = q.new_zeros(q.shape[:3], dtype=torch.promote_types(q.dtype, torch.float32))
    return out.transpose(1, 2).contiguous(), lse.transpose(1, 2)


def attention_backward_kernel(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for q, k, v, each of its shape."""
    check_attention(q, k, v, window)
    check_attention_backward(grad, q, out, lse)
    mask = _window_mask(q.shape[1], window, q.dtype, q.device)
    grad_t, qt, kt, vt, out_t = (_by_head(t) for t in (grad, q, k, v, out))
    if q.device.type == "cpu":
        grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
            grad_t, qt, kt, vt, out_t, lse, 0.0, mask is None, attn_mask=mask, scale=scale
        )
    else:
        with torch.enable_grad():
            qt, kt, vt = (t.detach().requires_grad_() for t in (qt, kt, vt))
            grads = torch.autograd.grad(_any_device(qt, kt, vt, scale, mask), (qt, kt, vt), grad_t)
    gq, gk, gv = (g.transpose(1, 2).contiguous() for g in grads)
    return gq, gk, gv


def _by_head(x: Tensor) -> Tensor:
    """(B, S, H, d) -> (B, H, S, d), of which the flash kernels take the last dim for contiguous unasked."""
    return (x if x.stride(-1) == 1 else x.contiguous()).transpose(1, 2)


def _any_device(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=q.shape[1] != k.shape[1]
    )


@lru_cache(maxsize=4)
def _window_mask(length: int, window: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """(S, S) added to the scores: 0 where i - window < j <= i, -inf elsewhere; None if that is plain causal.

    One mask serves all layers of a model and all steps of a run.
    """
    if window == 0 or window >= length:
        return None
    seen = torch.ones((length, length), dtype=torch.bool, device=device).tril_().triu_(1 - window)
    return torch.zeros((length, length), dtype=dtype, device=device).masked_fill_(
        seen.logical_not_(), -torch.inf
    )
