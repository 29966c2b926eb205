"""Attention in plain tensor code, a block of queries at a time: what no kernel of torch offers.

Only the keys that a block can see are touched, so memory and time follow the window, not the sequence.

Legend: B sequences, S tokens, H query heads, h key heads, g = H / h, d head dim, c value dim; n queries and m
keys of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .dtypes import wide

_SCORES_AT_ONCE, _LEAST_ROWS = 1 << 19, 16
"""Scores of a block stay in a cache; but products of matrices want some rows."""


@dataclass(frozen=True)
class Scoring:
    """The factor of scores, how far a query sees, and the bound of scores; 0: no such limit."""

    scale: float
    window: int
    chunk: int
    softcap: float

    def reach(self, length: int) -> int:
        """How many keys a query of a sequence of `length` sees at most."""
        return min(length, self.window or length, self.chunk or length)

    def first_key(self, query: int) -> int:
        """The first position that `query` sees."""
        first = max(0, query - self.window + 1) if self.window else 0
        return max(first, query // self.chunk * self.chunk) if self.chunk else first

    def hidden(self, queries: range, keys: range, device: torch.device) -> Tensor:
        """(n, m) bool: whether a query does not see a key."""
        i = torch.arange(queries.start, queries.stop, device=device).unsqueeze(1)
        j = torch.arange(keys.start, keys.stop, device=device)
        hidden = j > i
        if self.window:
            hidden |= j <= i - self.window
        if self.chunk:
            hidden |= j < i - i % self.chunk
        return hidden


@dataclass(frozen=True)
class _Block:
    sequence: int
    queries: range
    keys: range

    def of_queries(self, x: Tensor, kv_heads: int) -> Tensor:
        """(B, S, H, w) -> (h, g n, w), in float32 or more."""
        rows = x[self.sequence, self.queries.start : self.queries.stop]
        grouped = rows.view(len(self.queries), kv_heads, -1, x.shape[-1]).permute(1, 2, 0, 3)
        return grouped.reshape(kv_heads, -1, x.shape[-1]).to(wide(x))

    def of_keys(self, x: Tensor) -> Tensor:
        """(B, S, h, w) -> (h, m, w), in float32 or more."""
        return x[self.sequence, self.keys.start : self.keys.stop].transpose(0, 1).to(wide(x))

    def put(self, target: Tensor, x: Tensor) -> None:
        """(h, g n, w) into (B, S, H, w) at the queries."""
        rows = x.view(x.shape[0], -1, len(self.queries), x.shape[-1]).permute(2, 0, 1, 3)
        target[self.sequence, self.queries.start : self.queries.stop] = rows.flatten(1, 2)

    def add(self, target: Tensor, x: Tensor) -> None:
        """(h, m, w) onto (B, S, h, w) at the keys."""
        target[self.sequence, self.keys.start : self.keys.stop] += x.transpose(0, 1)


def forward_by_blocks(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    """(B, S, H, d), (B, S, h, d), (B, S, h, c), (H,) -> (B, S, H, c), logsumexp (B, S, H, 1)."""
    out = q.new_empty((*q.shape[:3], v.shape[3]))
    lse = q.new_empty((*q.shape[:3], 1), dtype=wide(q))
    for block in _blocks(q, scoring):
        scores = _hide(_scores(q, k, block, scoring), block, scoring)
        top = scores.amax(-1, keepdim=True)
        if sinks is not None:
            of_queries = sinks.view(k.shape[2], -1, 1).expand(-1, -1, len(block.queries))
            sink = of_queries.reshape(top.shape)
            top = torch.maximum(top, sink)
        powers = scores.sub_(top).exp_()
        total = powers.sum(-1, keepdim=True)
        if sinks is not None:
            total += (sink - top).exp_()
        block.put(lse, top + total.log())
        block.put(out, (powers @ block.of_keys(v)).div_(total))
    return out, lse


def backward_by_blocks(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, scoring: Scoring
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients for q, k, v. `lse` and `delta`, the sums of grad * out, are (B, S, H, 1).

    With P = exp(scores - lse): dv = P^T grad, dP = grad v^T, dscores = P (dP - delta).
    """
    grad_q = q.new_empty(q.shape)
    grad_k, grad_v = (t.new_zeros(t.shape, dtype=wide(t)) for t in (k, v))
    heads = k.shape[2]
    for block in _blocks(q, scoring):
        scores = _scores(q, k, block, scoring)
        slope = _slope(scores, scoring)
        weights = _hide(scores, block, scoring).sub_(block.of_queries(lse, heads)).exp_()
        given = block.of_queries(grad, heads)
        block.add(grad_v, weights.mT @ given)
        change = (given @ block.of_keys(v).mT).sub_(block.of_queries(delta, heads)).mul_(weights).mul_(slope)
        block.put(grad_q, change @ block.of_keys(k))
        block.add(grad_k, change.mT @ block.of_queries(q, heads))
    return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype)


def _blocks(q: Tensor, scoring: Scoring) -> Iterator[_Block]:
    sequences, length, heads, _ = q.shape
    reach = scoring.reach(length)
    keys = min(2 * reach, length)  # of as many queries as one of them sees keys
    rows = max(_LEAST_ROWS, min(reach, _SCORES_AT_ONCE // (heads * keys)))
    for sequence in range(sequences):
        for first in range(0, length, rows):
            end = min(first + rows, length)
            yield _Block(sequence, range(first, end), range(scoring.first_key(first), end))


def _scores(q: Tensor, k: Tensor, block: _Block, scoring: Scoring) -> Tensor:
    """(h, g n, m), of all keys of the block."""
    scores = (block.of_queries(q, k.shape[2]) @ block.of_keys(k).mT).mul_(scoring.scale)
    if scoring.softcap:
        scores = scores.div_(scoring.softcap).tanh_().mul_(scoring.softcap)
    return scores


def _slope(scores: Tensor, scoring: Scoring) -> Tensor | float:
    """Of `scores` (not yet hidden) over the products of queries and keys: scale * (1 - tanh^2)."""
    if not scoring.softcap:
        return scoring.scale
    return scores.div(scoring.softcap).square_().neg_().add_(1.0).mul_(scoring.scale)


def _hide(scores: Tensor, block: _Block, scoring: Scoring) -> Tensor:
    """The same tensor, -inf where a query does not see a key."""
    hidden = scoring.hidden(block.queries, block.keys, scores.device)
    scores.view(scores.shape[0], -1, *hidden.shape).masked_fill_(hidden, -torch.inf)
    return scores
