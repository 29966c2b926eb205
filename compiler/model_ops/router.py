"""The stages of a router.

Legend: T tokens, E experts, K choices.
"""

from __future__ import annotations

from torch import Tensor


def softmax(scores: Tensor) -> Tensor:
    """(T, E) or (T, K) -> probabilities over all experts, or over the chosen ones."""
    return scores.softmax(-1)


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(T, E) -> the K best scores (T, K) and whose they are (T, K) int64, best first."""
    values, chosen = scores.topk(k, -1)
    return values, chosen


def renormalize(weights: Tensor) -> Tensor:
    """(T, K) -> the same, summing to one over K."""
    return weights / weights.sum(-1, keepdim=True)
