"""Attention and positions in sequences that hold several documents, none of which sees another.

`documents` (B, S) int64 says of every token where in its sequence its document starts. Neighbours with one
number are one document.

Attention is that of each document by itself, by whatever kernel is best for its length; documents of one
length are computed together. So a window, a chunk, a sink mean in a packed sequence what they mean in one.

Legend: B sequences, S tokens of a sequence, H query heads, h key heads, d head dim, c value dim; g documents
of n tokens each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention_blocks import Scoring
from .attention_kernels import attention_backward_kernel, attention_kernel
from .dtypes import wide
from .guards import check_attention, check_attention_backward, require
from .row_kernels import position_factors, rope_table, turned


@dataclass(frozen=True)
class _Alike:
    """All documents of one length: the rows of their tokens (g, n) among all B * S, or None for all of them
    as they lie."""

    rows: Tensor | None
    length: int

    def take(self, x: Tensor) -> Tensor:
        """(B, S, ...) -> (g, n, ...)."""
        if self.rows is None:
            return x
        taken = x.flatten(0, 1).index_select(0, self.rows.view(-1))
        return taken.view(*self.rows.shape, *x.shape[2:])

    def put(self, target: Tensor, x: Tensor) -> None:
        """(g, n, ...) into `target` (B, S, ...), contiguous."""
        if self.rows is None:
            target.copy_(x)
        else:
            target.view(-1, *target.shape[2:]).index_copy_(0, self.rows.view(-1), x.flatten(0, 1))


def document_attention_kernel(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, documents: Tensor, scoring: Scoring
) -> tuple[Tensor, Tensor]:
    """As `attention_kernel`, with documents (B, S)."""
    check_attention(q, k, v, sinks, scoring.window, scoring.chunk, scoring.softcap)
    _check_documents(documents, q)
    out = q.new_empty((*q.shape[:3], v.shape[3]))
    lse = q.new_empty(q.shape[:3], dtype=wide(q))
    for alike in _by_length(documents):
        here, here_lse = attention_kernel(alike.take(q), alike.take(k), alike.take(v), sinks, scoring)
        alike.put(out, here)
        alike.put(lse, here_lse.transpose(1, 2))
    return out, lse.transpose(1, 2)


def document_attention_backward_kernel(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    documents: Tensor,
    out: Tensor,
    lse: Tensor,
    scoring: Scoring,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As `attention_backward_kernel`, with documents (B, S)."""
    check_attention(q, k, v, sinks, scoring.window, scoring.chunk, scoring.softcap)
    check_attention_backward(grad, q, v, out, lse)
    _check_documents(documents, q)
    of_heads = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v)]
    of_sinks = lse.new_zeros(0 if sinks is None else sinks.shape)
    rows = lse.transpose(1, 2)
    for alike in _by_length(documents):
        given, q_here, k_here, v_here, out_here = (alike.take(t) for t in (grad, q, k, v, out))
        lse_here = alike.take(rows).transpose(1, 2)
        *found, found_sinks = attention_backward_kernel(
            given, q_here, k_here, v_here, sinks, out_here, lse_here, scoring
        )
        for target, here in zip(of_heads, found, strict=True):
            alike.put(target, here)
        of_sinks += found_sinks
    return of_heads[0], of_heads[1], of_heads[2], of_sinks


def rope_at_kernel(
    x: Tensor,
    positions: Tensor,
    start: int,
    frequencies: tuple[float, ...],
    magnitude: float,
    interleaved: bool,
    inverse: bool,
) -> Tensor:
    """As `rope_kernel`, each token turned by its place in `positions` (B, S) int64."""
    pairs = len(frequencies)
    end = start + 2 * pairs
    require(x.dim() == 4 and 0 <= start < end <= x.shape[3], f"rotates dims {start} to {end} of a head", x)
    _check_positions(positions, x)
    tables = rope_table(x.shape[1], frequencies, magnitude, inverse, x.dtype, x.device)
    cos, sin = (table[positions] for table in tables)
    return turned(x, start, cos, sin, interleaved)


def position_scale_at_kernel(x: Tensor, positions: Tensor, scale: float, period: int, offset: int) -> Tensor:
    """As `position_scale_kernel`, each token by its place in `positions` (B, S) int64."""
    require(x.dim() == 4 and period > 0, f"positions are those of (B, S, H, d), by {period} of them", x)
    _check_positions(positions, x)
    factors = position_factors(x.shape[1], scale, period, offset, x.dtype, x.device)
    return (x * factors[positions]).to(x.dtype)


def _by_length(documents: Tensor) -> Iterator[_Alike]:
    """The documents of all sequences, those of one length together, the shortest first."""
    sequences, length = documents.shape
    here = documents.cpu()
    first = torch.ones_like(here, dtype=torch.bool)
    first[:, 1:] = here[:, 1:] != here[:, :-1]
    starts = first.view(-1).nonzero().squeeze(1)
    lengths = torch.diff(starts, append=starts.new_tensor([sequences * length]))
    for n in sorted(set(lengths.tolist())):
        if n == length:
            whole = starts[lengths == n]
            if len(whole) == sequences:
                yield _Alike(None, n)
                continue
        rows = starts[lengths == n].unsqueeze(1) + torch.arange(n)
        yield _Alike(rows.to(documents.device), n)


def _check_documents(documents: Tensor, x: Tensor) -> None:
    """(B, S) int64 where x is (B, S, H, d). Whatever the numbers are, they cut a sequence into pieces."""
    fits = documents.shape == x.shape[:2] and documents.dtype == torch.int64
    require(fits and documents.device == x.device, "documents are int64 (B, S)", documents, x)


def _check_positions(positions: Tensor, x: Tensor) -> None:
    """(B, S) int64 where x is (B, S, H, d), each in 0..S - 1: the values only on a CPU."""
    fits = positions.shape == x.shape[:2] and positions.dtype == torch.int64
    require(fits and positions.device == x.device, "positions are int64 (B, S)", positions, x)
    if positions.device.type == "cpu" and positions.numel():
        inside = int(positions.min()) >= 0 and int(positions.max()) < x.shape[1]
        require(inside, f"positions are 0 to {x.shape[1] - 1}")
