"""Norms and positions: few passes over the activations, in their dtype (tables are made in float64).

Halves are computed in float32 and rounded once. What norms keep and their parameters stay in that, so it is
`wide`: float32 for halves, else the dtype of the activations.

Legend: B sequences, S tokens, H heads, d head dim, D width, n rotated pairs.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from .dtypes import wide
from .guards import check_norm, check_norm_backward, require


def rms_norm_kernel(x: Tensor, weight: Tensor | None, eps: float) -> tuple[Tensor, Tensor]:
    """(..., D), (D,) wide -> normed (..., D), 1 / rms (..., 1) wide."""
    dtype, x = x.dtype, x.to(wide(x))
    rstd = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    normed = x * rstd
    return (normed if weight is None else normed.mul_(weight)).to(dtype), rstd


def rms_norm_backward_kernel(
    grad: Tensor, x: Tensor, weight: Tensor | None, rstd: Tensor
) -> tuple[Tensor, Tensor]:
    """u = x * rstd, g = grad * weight: dx = rstd * (g - u * mean(g u)), dw = sum over rows of grad * u.

    Without a weight the second result is empty.
    """
    dtype, grad = x.dtype, grad.to(rstd.dtype)
    unit = x * rstd
    product = grad * unit
    if weight is None:
        mean = product.mean(-1, keepdim=True)
        grad_x = torch.sub(grad, unit.mul_(mean), out=product).mul_(rstd)
        return grad_x.to(dtype), rstd.new_empty(0)
    grad_weight = product.reshape(-1, x.shape[-1]).sum(0)
    mean = product.mul_(weight).mean(-1, keepdim=True)
    grad_x = (grad * weight).sub_(unit.mul_(mean)).mul_(rstd)
    return grad_x.to(dtype), grad_weight


def layer_norm_kernel(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """(..., D), (D,), (D,) -> normed (..., D), mean and 1 / deviation (..., 1) wide: torch's, one pass."""
    check_norm(x, weight, bias)
    given = x.to(wide(x))
    out, mean, rstd = torch.native_layer_norm(given, [x.shape[-1]], weight, bias, eps)
    return out.to(x.dtype), mean.to(given.dtype), rstd.to(given.dtype)


def layer_norm_backward_kernel(
    grad: Tensor, x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor, rstd: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (..., D), weight and bias (D,); those of a parameter there is not are empty."""
    check_norm_backward(grad, x, weight, bias, mean, rstd)
    mean, rstd = mean.contiguous(), rstd.contiguous()  # torch takes them for a run of memory
    wanted = [True, weight is not None, bias is not None]
    found = torch.ops.aten.native_layer_norm_backward(
        grad.to(rstd.dtype), x.to(rstd.dtype), [x.shape[-1]], mean, rstd, weight, bias, wanted
    )
    grad_x, grad_weight, grad_bias = (rstd.new_empty(0) if g is None else g for g in found)
    return grad_x.to(x.dtype), grad_weight, grad_bias


def rope_kernel(
    x: Tensor, start: int, frequencies: tuple[float, ...], magnitude: float, interleaved: bool, inverse: bool
) -> Tensor:
    """(B, S, H, d) -> (B, S, H, d): dims [start, start + 2 n) turned, the others as they are."""
    pairs = len(frequencies)
    end = start + 2 * pairs
    require(x.dim() == 4 and 0 <= start < end <= x.shape[3], f"rotates dims {start} to {end} of a head", x)
    cos, sin = rope_table(x.shape[1], frequencies, magnitude, inverse, x.dtype, x.device)
    return turned(x, start, cos, sin, interleaved)


def turned(x: Tensor, start: int, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """(B, S, H, d) -> the same, dims [start, start + 2 n) turned by `cos` and `sin`.

    Those are wide, (S, 1, n) or (B, S, 1, n).
    """
    if x.dtype != cos.dtype:
        return turned(x.to(cos.dtype), start, cos, sin, interleaved).to(x.dtype)
    pairs = cos.shape[-1]
    end = start + 2 * pairs
    out = x.new_empty(x.shape)
    if 2 * pairs < x.shape[3]:
        out[..., :start] = x[..., :start]
        out[..., end:] = x[..., end:]
    if interleaved and _is_complex(x, start) and x.shape[3] % 2 == 0:
        given, wanted = (_as_complex(t[..., start:end]) for t in (x, out))
        torch.mul(given, torch.complex(cos, sin), out=wanted)
        return out
    first, second = _halves(start, pairs, interleaved)
    a, b, u, v = x[..., first], x[..., second], out[..., first], out[..., second]
    torch.mul(a, cos, out=u).addcmul_(b, sin, value=-1)
    torch.mul(b, cos, out=v).addcmul_(a, sin)
    return out


def _is_complex(x: Tensor, start: int) -> bool:
    """Whether pairs of neighbours from dim `start` on lie in memory as complex numbers do."""
    *strides, last = x.stride()
    even = all(number % 2 == 0 for number in (*strides, x.storage_offset(), start))
    return even and last == 1 and x.dtype in (torch.float32, torch.float64)


def _as_complex(x: Tensor) -> Tensor:
    """(B, S, H, 2 n) -> (B, S, H, n) complex, the same memory."""
    return torch.view_as_complex(x.view(*x.shape[:-1], x.shape[-1] // 2, 2))


def _halves(start: int, pairs: int, interleaved: bool) -> tuple[slice, slice]:
    """Where the first and the second of each pair are."""
    middle, end = start + pairs, start + 2 * pairs
    if interleaved:
        return slice(start, end, 2), slice(start + 1, end, 2)
    return slice(start, middle), slice(middle, end)


@lru_cache(maxsize=32)
def rope_table(
    length: int,
    frequencies: tuple[float, ...],
    magnitude: float,
    inverse: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> tuple[Tensor, Tensor]:
    """cos and sin (S, 1, n) of position * frequency, or backwards for the inverse, times the magnitude.

    For activations of `dtype`; wide.
    """
    speed = torch.tensor(frequencies, dtype=torch.float64) * (-1 if inverse else 1)
    angle = torch.arange(length, dtype=torch.float64).unsqueeze(1) * speed
    cos, sin = (angle.cos() * magnitude, angle.sin() * magnitude)
    return cos.to(device, wide(dtype)).unsqueeze(1), sin.to(device, wide(dtype)).unsqueeze(1)


def position_scale_kernel(x: Tensor, scale: float, period: int, offset: int) -> Tensor:
    """(B, S, H, d) -> the same, each position times its factor."""
    require(x.dim() == 4 and period > 0, f"positions are those of (B, S, H, d), by {period} of them", x)
    return (x * position_factors(x.shape[1], scale, period, offset, x.dtype, x.device)).to(x.dtype)


@lru_cache(maxsize=8)
def position_factors(
    length: int, scale: float, period: int, offset: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """1 + scale * ln(1 + floor((position + offset) / period)), (S, 1, 1), wide."""
    position = torch.arange(length, dtype=torch.float64) + offset
    factors = (position / period).floor().log1p() * scale + 1.0
    return factors.to(device, wide(dtype)).view(length, 1, 1)
