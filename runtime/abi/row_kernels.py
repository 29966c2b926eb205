"""Norms and rotary positions: few passes over the activations, in their dtype (tables in float32 or more).

Legend: B sequences, S tokens, H heads, d head dim, D width.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .guards import require


def rms_norm_kernel(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(..., D), (D,) -> normed (..., D), 1 / rms (..., 1)."""
    rstd = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (x * rstd).mul_(weight), rstd


def rms_norm_backward_kernel(grad: Tensor, x: Tensor, weight: Tensor, rstd: Tensor) -> tuple[Tensor, Tensor]:
    """u = x * rstd, g = grad * weight: dx = rstd * (g - u * mean(g u)), dw = sum over rows of grad * u."""
    unit = x * rstd
    product = grad * unit
    grad_weight = product.reshape(-1, x.shape[-1]).sum(0)
    mean = product.mul_(weight).mean(-1, keepdim=True)
    grad_x = (grad * weight).sub_(unit.mul_(mean)).mul_(rstd)
    return grad_x, grad_weight


def rope_kernel(x: Tensor, theta: float, inverse: bool) -> Tensor:
    """(B, S, H, d) -> (B, S, H, d), d even."""
    require(x.dim() == 4 and x.shape[3] % 2 == 0, "rotary positions take (B, S, H, d) with d even", x)
    half = x.shape[-1] // 2
    cos, sin = _rope_table(x.shape[1], half, theta, x.dtype, x.device)
    if inverse:
        sin = -sin
    a, b = x[..., :half], x[..., half:]
    out = x.new_empty(x.shape)
    torch.mul(a, cos, out=out[..., :half])
    out[..., :half].addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=out[..., half:])
    out[..., half:].addcmul_(a, sin)
    return out


@lru_cache(maxsize=32)
def _rope_table(
    length: int, half: int, theta: float, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """cos and sin (S, 1, d/2) of position * theta^(-2i/d)."""
    wide = torch.promote_types(dtype, torch.float32)
    frequency = 1.0 / theta ** (torch.arange(0, 2 * half, 2, dtype=wide, device=device) / (2 * half))
    angle = torch.arange(length, dtype=wide, device=device).unsqueeze(1) * frequency
    return angle.cos().to(dtype).unsqueeze(1), angle.sin().to(dtype).unsqueeze(1)
