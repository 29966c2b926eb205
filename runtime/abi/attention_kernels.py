"""Causal attention and its backward, on whatever device the operands are.

On a CPU these are torch's flash kernels, called directly so that forward hands its logsumexp to backward. On
other devices torch chooses the kernel, and backward runs it again under autograd. What these kernels do not
know is computed by blocks.

Legend: B sequences, S tokens, H query heads, h key heads (h divides H), d head dim, c value dim.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention_blocks import Scoring, backward_by_blocks, forward_by_blocks
from .dtypes import wide
from .guards import check_attention, check_attention_backward

_aten = torch.ops.aten

_NARROW = 4
"""Blocks take over from kernels where a query sees at most this part of a sequence."""

_LONGEST_MASK, _LONGEST_MASK_OF_A_DEVICE = 1 << 10, 1 << 13
"""Tokens of the longest sequence with an (S, S) mask: on a CPU blocks are faster from there on, and elsewhere
a mask becomes too large, 256 MiB in float32."""


def attention_kernel(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    """(B, S, H, d), (B, S, h, d), (B, S, h, c), (H,) -> (B, S, H, c), logsumexp (B, H, S)."""
    check_attention(q, k, v, sinks, scoring.window, scoring.chunk, scoring.softcap)
    if _by_blocks(q, sinks, scoring):
        out, lse = forward_by_blocks(q, k, v, sinks, scoring)
        return out, lse.squeeze(-1).transpose(1, 2)
    if q.device.type == "cpu":
        return _with_sinks(*_flash(q, k, v, scoring), sinks)
    out = _any_device(_by_head(q), _by_head(k), _by_head(v), scoring)
    # Backward does not read it: the result keeps the shape that the instruction promises.
    lse = q.new_zeros(q.shape[:3], dtype=wide(q))
    return out.transpose(1, 2).contiguous(), lse.transpose(1, 2)


def attention_backward_kernel(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    lse: Tensor,
    scoring: Scoring,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients for q, k, v and sinks, each of its shape; empty where there are no sinks."""
    check_attention(q, k, v, sinks, scoring.window, scoring.chunk, scoring.softcap)
    check_attention_backward(grad, q, v, out, lse)
    grad_sinks = lse.new_empty(0) if sinks is None else _grad_sinks(grad, sinks, out, lse)
    if _by_blocks(q, sinks, scoring):
        rows = lse.transpose(1, 2).unsqueeze(-1)
        return *backward_by_blocks(grad, q, k, v, rows, _delta(grad, out, lse), scoring), grad_sinks
    if q.device.type == "cpu":
        return *_flash_backward(grad, q, k, v, out, lse, scoring), grad_sinks
    with torch.enable_grad():
        qt, kt, vt = (_by_head(t).detach().requires_grad_() for t in (q, k, v))
        grads = torch.autograd.grad(_any_device(qt, kt, vt, scoring), (qt, kt, vt), _by_head(grad))
    gq, gk, gv = (g.transpose(1, 2).contiguous() for g in grads)
    return gq, gk, gv, grad_sinks


def _by_blocks(q: Tensor, sinks: Tensor | None, scoring: Scoring) -> bool:
    """Whether no kernel of torch does it: softcaps none, sinks only those that give their logsumexp.

    Or does it badly: a mask is as large as the sequence squared, and kernels for a CPU compute every score
    that it hides, so a short reach is left to blocks, and a long sequence.
    """
    length = q.shape[1]
    reach = scoring.reach(length)
    if scoring.softcap != 0:
        return True
    if q.device.type == "cpu":
        return reach < length and (_NARROW * reach <= length or length > _LONGEST_MASK)
    return sinks is not None or (reach < length and length > _LONGEST_MASK_OF_A_DEVICE)


def _by_head(x: Tensor) -> Tensor:
    """(B, S, H, d) -> (B, H, S, d), of which the flash kernels take the last dim for contiguous unasked."""
    return (x if x.stride(-1) == 1 else x.contiguous()).transpose(1, 2)


# --- torch's flash kernels for CPUs, which want heads and values of one dim ---


def _flash(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> tuple[Tensor, Tensor]:
    mask, dims = _mask(q, scoring), max(q.shape[3], v.shape[3])
    qt, kt, vt = (_padded(t, dims) for t in (q, k, v))
    out, lse = _aten._scaled_dot_product_flash_attention_for_cpu(
        qt, kt, vt, 0.0, mask is None, attn_mask=mask, scale=scoring.scale
    )
    return out[..., : v.shape[3]].transpose(1, 2).contiguous(), lse


def _flash_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scoring: Scoring
) -> tuple[Tensor, Tensor, Tensor]:
    """With sinks in `out` and `lse`, exp(scores - lse) and the sums of grad * out are right as they are."""
    mask, dims = _mask(q, scoring), max(q.shape[3], v.shape[3])
    operands = [_padded(t, dims) for t in (grad, q, k, v, out)]
    grads = _aten._scaled_dot_product_flash_attention_for_cpu_backward(
        *operands, lse, 0.0, mask is None, attn_mask=mask, scale=scoring.scale
    )
    gq, gk, gv = (
        g[..., : t.shape[3]].transpose(1, 2).contiguous() for g, t in zip(grads, (q, k, v), strict=True)
    )
    return gq, gk, gv


def _padded(x: Tensor, dims: int) -> Tensor:
    """(B, S, H, d) -> (B, H, S, dims), zeros behind: they add nothing to a score, and nothing to a result."""
    return _by_head(x if x.shape[3] == dims else F.pad(x, (0, dims - x.shape[3])))


def _with_sinks(out: Tensor, lse: Tensor, sinks: Tensor | None) -> tuple[Tensor, Tensor]:
    """The softmax with one more score: its total is exp(lse) + exp(sink), so the rest shrinks."""
    if sinks is None:
        return out, lse
    rows = lse.transpose(1, 2)
    total = torch.logaddexp(rows, sinks)
    return out.mul_((rows - total).exp_().unsqueeze(-1).to(out.dtype)), total.transpose(1, 2)


def _grad_sinks(grad: Tensor, sinks: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """A sink's share of the softmax has no value: its score's gradient is -share * delta, summed."""
    share = (sinks - lse.transpose(1, 2)).exp_()
    return share.mul_(_delta(grad, out, lse).squeeze(-1)).sum((0, 1)).neg_()


def _delta(grad: Tensor, out: Tensor, lse: Tensor) -> Tensor:
    """The sums of grad * out, (B, S, H, 1): the mean of the gradients of a query's probabilities."""
    return (grad.to(lse.dtype) * out).sum(-1, keepdim=True)


# --- other devices, and masks ---


def _any_device(q: Tensor, k: Tensor, v: Tensor, scoring: Scoring) -> Tensor:
    mask = _mask(q.transpose(1, 2), scoring)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scoring.scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


def _mask(q: Tensor, scoring: Scoring) -> Tensor | None:
    """(S, S) added to the scores of q (B, S, H, d); None if causal order is all that is asked for."""
    length = q.shape[1]
    if scoring.reach(length) == length:
        return None
    return _added(length, scoring.window, scoring.chunk, q.dtype, q.device)


@lru_cache(maxsize=4)
def _added(length: int, window: int, chunk: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(S, S): 0 where a key is seen, -inf elsewhere.

    One mask serves all layers of a model and all steps of a run.
    """
    hidden = Scoring(1.0, window, chunk, 0.0).hidden(range(length), range(length), device)
    return torch.zeros((length, length), dtype=dtype, device=device).masked_fill_(hidden, -torch.inf)
