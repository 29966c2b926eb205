"""The operations of a reference graph: what a model is made of, at the level of its paper.

Plain functions on tensors, so that a reference graph runs as it is, on one device, with no collective. They
are traced away when a region is differentiated; what remains are the operations of `moec.runtime.abi`.

Legend: B sequences, S tokens of a sequence, T = B * S tokens, D width, H heads, d head dim, E experts, K
choices, N = T * K routed rows. "Real" tokens are those of the first `sequences` sequences; the rest is
padding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moec.runtime.abi import ops


def embed(tokens: Tensor, table: Tensor) -> Tensor:
    """(B, S) int64, (V, D) -> (T, D)."""
    return F.embedding(tokens.reshape(-1), table)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """(..., D), (D,) -> (..., D)."""
    out: Tensor = ops.rms_norm(x, weight, eps)[0]
    return out


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(T, in), (out, in), (out,) -> (T, out)."""
    return F.linear(x, weight, bias)


def add(x: Tensor, y: Tensor) -> Tensor:
    """A residual branch."""
    return x + y


def split_heads(x: Tensor, sequence: int, head_dim: int) -> Tensor:
    """(T, H * d) -> (B, S, H, d)."""
    return x.view(-1, sequence, x.shape[1] // head_dim, head_dim)


def merge_heads(x: Tensor) -> Tensor:
    """(B, S, H, d) -> (T, H * d)."""
    return x.reshape(x.shape[0] * x.shape[1], -1)


def clip(x: Tensor, limit: float) -> Tensor:
    """Every element into [-limit, limit]."""
    return x.clamp(-limit, limit)


def rope(x: Tensor, theta: float) -> Tensor:
    """(B, S, H, d) -> the same, rotated by position: the first half of the dims pairs with the second."""
    out: Tensor = ops.rope(x, theta, False)
    return out


def attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Causal: (B, S, H, d), 2 x (B, S, h, d) -> (B, S, H, d); `window` keys are seen, 0 for all."""
    out: Tensor = ops.attention(q, k, v, q.shape[-1] ** -0.5, window)[0]
    return out


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(gate) * up


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    """(T, D), (T, 1) -> x * sigmoid(gate)."""
    return x * torch.sigmoid(gate)


# --- the stages of a router ---


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


# --- from tokens to experts and back ---


def group_by_expert(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """(T, K) -> order (N,) that sorts the pairs by expert, its inverse (N,), and rows of each expert (E,)."""
    flat = chosen.reshape(-1)
    order = flat.argsort(stable=True)
    return order, ops.inverse_permutation(order), ops.histogram(flat, experts)


def dispatch(x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
    """(T, D) -> (N, D), sorted by expert."""
    rows: Tensor = ops.dispatch(x, order, inverse, k)
    return rows


def expert_mm(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """(R, in), (e, out, in), (e,) -> (R, out)."""
    out: Tensor = ops.expert_mm(rows, weight, counts)
    return out


def combine(rows: Tensor, weights: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """(N, D), (T, K) -> (T, D)."""
    out: Tensor = ops.combine(rows, weights, order, inverse)
    return out


# --- statistics of the router, over real tokens ---


def expert_load(chosen: Tensor, sequences: Tensor, sequence: int, experts: int) -> Tensor:
    """(T, K) -> (E,) int64: how many of the choices of real tokens fell on each expert."""
    real = _real(chosen.shape[0], sequences, sequence).unsqueeze(1)
    counts: Tensor = ops.histogram(torch.where(real, chosen, experts).reshape(-1), experts + 1)
    return counts[:experts]


def probability_sum(probabilities: Tensor, sequences: Tensor, sequence: int) -> Tensor:
    """(T, E) -> (E,): the sum of router probabilities over real tokens."""
    real = _real(probabilities.shape[0], sequences, sequence)
    return (probabilities * real.unsqueeze(1)).sum(0)


def square_logsumexp_sum(logits: Tensor, sequences: Tensor, sequence: int) -> Tensor:
    """(T, E) -> (): the sum over real tokens of logsumexp(logits)^2."""
    real = _real(logits.shape[0], sequences, sequence)
    return (logits.logsumexp(-1).square() * real).sum()


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


def _real(tokens: int, sequences: Tensor, sequence: int) -> Tensor:
    return torch.arange(tokens, device=sequences.device) < sequences * sequence
