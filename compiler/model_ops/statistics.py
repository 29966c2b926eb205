"""Statistics of the router over real tokens, and the losses.

Legend: B sequences, S tokens of a sequence, T = B * S tokens, E experts, K choices, V words. "Real" tokens
are those of
the first `sequences` sequences; the rest is padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moec.runtime.abi import loss_ops, routing_ops


def expert_load(chosen: Tensor, sequences: Tensor, sequence: int, experts: int) -> Tensor:
    """(T, K) -> (E,) int64: how many of the choices of real tokens fell on each expert."""
    real = _real(chosen.shape[0], sequences, sequence).unsqueeze(1)
    counts: Tensor = routing_ops.histogram(torch.where(real, chosen, experts).reshape(-1), experts + 1)
    return counts[:experts]


def probability_sum(probabilities: Tensor, sequences: Tensor, sequence: int) -> Tensor:
    """(T, E) -> (E,): the sum of router probabilities over real tokens."""
    real = _real(probabilities.shape[0], sequences, sequence)
    return (probabilities * real.unsqueeze(1)).sum(0)


def square_logsumexp_sum(logits: Tensor, sequences: Tensor, sequence: int) -> Tensor:
    """(T, E) -> (): the sum over real tokens of logsumexp(logits)^2."""
    real = _real(logits.shape[0], sequences, sequence)
    return (logits.logsumexp(-1).square() * real).sum()


def dropped(sent: Tensor, sequences: Tensor, sequence: int, experts: int) -> Tensor:
    """(T, K) int64 -> (2,) int64, of real tokens: choices without room, and tokens without any with room.

    Where a choice goes is in `sent`; it has no room where that is `experts` or more.
    """
    real = _real(sent.shape[0], sequences, sequence).unsqueeze(1)
    out = torch.logical_and(sent >= experts, real).sum(1)
    return torch.stack([out.sum(), (out >= sent.shape[1]).sum()])


def entropy_sum(scores: Tensor, sequences: Tensor, sequence: int) -> Tensor:
    """(T, E) -> (): the sum over real tokens of -sum_e p_e ln p_e, where p is a token's scores by their sum.

    In nats, without gradient. Scores are not negative; a token whose scores are all 0 has entropy 0.
    """
    entropies: Tensor = routing_ops.entropy(scores.detach())
    return (entropies * _real(scores.shape[0], sequences, sequence)).sum()


def accumulate(total: Tensor, x: Tensor) -> Tensor:
    """total + x: a statistic carried from layer to layer."""
    return total + x


def balance_loss(
    choices: Tensor, probabilities: Tensor, layers: int, micro_tokens: Tensor, batch_tokens: Tensor
) -> Tensor:
    """E * sum_e f_e p_e (Fedus et al., 2021, eq. 4).

    Given as this rank's summand of the mean over the batch's micro-batches.

    `choices` (E,) int64: choices of each expert by all tokens of the global micro-batch, over `layers`
    layers. `probabilities` (E,): sums over this rank's tokens only, so the summands of all ranks add up to
    the loss. `micro_tokens`, `batch_tokens` (): real tokens of the global micro-batch and of the global
    batch.
    """
    f = choices.to(probabilities.dtype) / (layers * micro_tokens).clamp(min=1)
    p = probabilities / (layers * batch_tokens)
    return (f * p).sum() * choices.shape[0]


def sequence_balance_loss(
    chosen: Tensor, scores: Tensor, sequences: Tensor, sequence: int, batch_tokens: Tensor
) -> Tensor:
    """E / (K S) * sum_e f_e p_e of each real sequence (DeepSeek-V3, 2024, eq. 17-20).

    Given as this rank's summand of the mean over all sequences of the batch. `chosen` (T, K), `scores` (T,
    E): f_e counts the choices of e in a sequence, p_e is the mean of its scores there, each token's divided
    by their sum.
    """
    tokens, experts = scores.shape
    of_sequence = torch.arange(tokens, device=chosen.device) // sequence
    at = (of_sequence.unsqueeze(1) * experts + chosen).reshape(-1)
    counts: Tensor = routing_ops.histogram(at, tokens // sequence * experts)
    f = counts.to(scores.dtype).view(-1, experts).index_select(0, of_sequence)
    real = _real(tokens, sequences, sequence).unsqueeze(1)
    terms = torch.where(real, f * (scores / scores.sum(-1, keepdim=True)), 0.0)
    return terms.sum() * (experts / (chosen.shape[1] * sequence)) / batch_tokens  # 1 / S both of p and batch


def per_token(total: Tensor, tokens: Tensor) -> Tensor:
    """total / tokens."""
    return total / tokens


def weighted_sum(terms: list[Tensor], coefficients: list[float]) -> Tensor:
    """sum_i coefficients[i] * terms[i]: the training objective."""
    total = terms[0] * coefficients[0]
    for term, coefficient in zip(terms[1:], coefficients[1:], strict=True):
        total = total + term * coefficient
    return total


def cross_entropy(logits: Tensor, targets: Tensor, loss_tokens: Tensor) -> Tensor:
    """(T, V), (B, S) int64 -> (): this rank's sum over loss-bearing tokens, over the batch's number of them.

    Targets of -100 bear no loss.
    """
    return F.cross_entropy(logits, targets.reshape(-1), ignore_index=-100, reduction="sum") / loss_tokens


def chunked_cross_entropy(
    x: Tensor,
    matrix: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    loss_tokens: Tensor,
    scale: float,
    softcap: float,
    chunk: int,
) -> Tensor:
    """(T, D), (V, D), (V,), (B, S) int64 -> (): `cross_entropy` of softcap(scale * (x W^T + b)).

    No more than `chunk` tokens have logits at a time. No cap if `softcap` is 0.
    """
    losses: Tensor = loss_ops.token_losses(x, matrix, bias, targets.reshape(-1), scale, softcap, chunk)
    return losses.sum() / loss_tokens


def _real(tokens: int, sequences: Tensor, sequence: int) -> Tensor:
    return torch.arange(tokens, device=sequences.device) < sequences * sequence
