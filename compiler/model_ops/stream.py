"""The residual stream as a whole: multiples of it, and the logits at its end.

Legend: T tokens, D width, V words.
"""

from __future__ import annotations

from torch import Tensor


def scaled(x: Tensor, factor: float) -> Tensor:
    """factor * x."""
    return x * factor


def softcap(logits: Tensor, limit: float) -> Tensor:
    """limit * tanh(logits / limit): every element within (-limit, limit). Gemma 2, 2024."""
    return (logits / limit).tanh() * limit
