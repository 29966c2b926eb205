"""The stages of a router.

Legend: T tokens of sequences of S, E experts, K choices.
"""

from __future__ import annotations

import math
from fractions import Fraction

import torch
import torch.nn.functional as F
from torch import Tensor

from moec.runtime.abi import routing_ops

# --- scores ---


def softmax(scores: Tensor) -> Tensor:
    """(T, E) or (T, K) -> probabilities over all experts, or over the chosen ones."""
    return scores.softmax(-1)


def sigmoid(scores: Tensor) -> Tensor:
    """(T, E) or (T, K) -> each by itself."""
    return scores.sigmoid()


def sqrt_softplus(scores: Tensor) -> Tensor:
    """(T, E) -> sqrt(ln(1 + exp(scores))).

    Where that is 0 for its smallness, the root has no slope, and the gradient would be no number.
    """
    return F.softplus(scores).clamp(min=torch.finfo(scores.dtype).tiny).sqrt()


# --- what is chosen by: numbers for comparison, without gradients ---


def corrected(scores: Tensor, correction: Tensor) -> Tensor:
    """(T, E), (E,) -> (T, E)."""
    return scores.detach() + correction.detach()


def sinkhorn(logits: Tensor, sequence: int, iterations: int) -> Tensor:
    """(T, E) -> exp(logits) of every sequence with rows, then columns, divided to even sums, in turns.

    A row's sum becomes 1 / S, a column's 1 / E. In logarithms, as exp(logits) may not fit the dtype. Clark et
    al., 2022.
    """
    plan = logits.detach().reshape(-1, sequence, logits.shape[1])
    for _ in range(iterations):
        plan = plan - plan.logsumexp(2, keepdim=True) - math.log(sequence)
        plan = plan - plan.logsumexp(1, keepdim=True) - math.log(plan.shape[2])
    return plan.reshape(logits.shape).exp()


def in_best_groups(scores: Tensor, groups: int, keep: int, by: str, fill: float) -> Tensor:
    """(T, E) -> the same with `fill` outside of each token's `keep` best of equal `groups`.

    A group's score is its `max`, or the sum of its two best (`top2_sum`).
    """
    scores = scores.detach()
    members = scores.reshape(scores.shape[0], groups, -1)
    best = members.topk(min(2, members.shape[2]), -1)[0].sum(-1) if by == "top2_sum" else members.amax(-1)
    kept = best.topk(keep, -1)[1]
    is_kept = (kept.unsqueeze(2) == torch.arange(groups, device=kept.device)).any(1)
    return torch.where(is_kept.unsqueeze(2), members, fill).reshape(scores.shape)


# --- choices ---


def top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(T, E) -> the K best scores (T, K) and whose they are (T, K) int64, best first."""
    values, chosen = scores.topk(k, -1)
    return values, chosen


def best(scores: Tensor, k: int) -> Tensor:
    """(T, E) -> (T, K) int64: whose the K best scores are, best first."""
    return scores.topk(k, -1)[1]


def round_robin(scores: Tensor, sequence: int, k: int, positions: Tensor | None = None) -> Tensor:
    """(T, E) -> (T, K) int64: the token at position p takes p * K, p * K + 1, ... modulo E.

    Positions are those in a sequence, unless `positions` (B, S) int64 are given.
    """
    tokens, experts = scores.shape
    if positions is None:
        position = torch.arange(tokens, device=scores.device) % sequence
    else:
        position = positions.reshape(-1)
    return (position.unsqueeze(1) * k + torch.arange(k, device=scores.device)) % experts


def scores_of(scores: Tensor, chosen: Tensor) -> Tensor:
    """(T, E), (T, K) int64 -> (T, K)."""
    return scores.gather(1, chosen)


def sparsemixer(logits: Tensor, k: int, jitter: float) -> tuple[Tensor, Tensor]:
    """(T, E) -> weights and choices (T, K): K times the best expert not yet picked.

    Its weight is a softmax over the experts left that are not more than 2 * jitter from it, relative to the
    larger of |logit| and the best one. Phi-3.5-MoE, 2024; without the sampling of its training.
    """
    left, weights, picks = logits, [], []
    expert = torch.arange(logits.shape[1], device=logits.device)
    for _ in range(k):
        best, pick = left.detach().max(-1, keepdim=True)
        gap = (best - logits.detach()) / torch.maximum(logits.detach().abs(), best)
        near = torch.where(gap > 2 * jitter, -math.inf, left)
        weights.append(near.softmax(-1).gather(1, pick))
        picks.append(pick)
        left = torch.where(expert == pick, -math.inf, left)
    return torch.cat(weights, -1), torch.cat(picks, -1)


# --- weights ---


def renormalize(weights: Tensor, eps: float, minimum: float, p: float) -> Tensor:
    """(T, K) -> weights / max(norm + eps, minimum), their p-norm over K."""
    norm = weights.sum(-1, keepdim=True) if p == 1.0 else _norm(weights.abs(), p)
    norm = norm + eps if eps else norm
    return weights / (norm.clamp(min=minimum) if minimum else norm)


def _norm(sizes: Tensor, p: float) -> Tensor:
    """(T, K) -> (T, 1): of sizes relative to the largest, as powers of small numbers may be 0."""
    largest = sizes.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(sizes.dtype).tiny)
    return (sizes / largest).pow(p).sum(-1, keepdim=True).pow(1.0 / p) * largest


def expert_scale(weights: Tensor, chosen: Tensor, scale: Tensor) -> Tensor:
    """(T, K), (T, K), (E,) -> weights times the factor of the chosen expert."""
    return weights * scale.expand(chosen.shape[0], -1).gather(1, chosen)


def room(sequence: int, k: int, experts: int, factor: float) -> int:
    """How many choices of a sequence an expert takes: ceil(factor * S * K / E), at most S."""
    return min(sequence, math.ceil(Fraction(repr(factor)) * sequence * k / experts))


def with_room(chosen: Tensor, sequence: int, experts: int, factor: float) -> Tensor:
    """(T, K) -> (T, K) bool: whether a choice is among the first of its expert in its sequence.

    An expert takes ceil(factor * S * K / E) choices of a sequence, in order of token and choice.
    """
    tokens, k = chosen.shape
    capacity = room(sequence, k, experts, factor)
    of_sequence = torch.arange(tokens, device=chosen.device).unsqueeze(1) // sequence
    queue = (of_sequence * experts + chosen).reshape(-1)  # one for every sequence and expert
    order = queue.argsort(stable=True)
    lengths: Tensor = routing_ops.histogram(queue, tokens // sequence * experts)
    starts = lengths.cumsum(0) - lengths
    place: Tensor = routing_ops.inverse_permutation(order) - starts.index_select(0, queue)
    return (place < capacity).view(tokens, k)


def kept(weights: Tensor, chosen: Tensor, room: Tensor, nowhere: int) -> tuple[Tensor, Tensor]:
    """(T, K) each -> weights, zero without room, and where choices go, `nowhere` without room."""
    return torch.where(room, weights, 0.0), torch.where(room, chosen, nowhere)
