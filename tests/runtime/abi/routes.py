"""Routings for tests, and what dispatch and combine mean, by loops over Python lists."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor


@dataclass(frozen=True)
class Route:
    """Which experts the tokens chose: `chosen` (T, K) int64, every row without repetition."""

    chosen: Tensor
    experts: int

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """(token, choice) of every routed row, sorted by expert and then by token and choice."""
        tokens, k = self.chosen.shape
        every = [(t, i) for t in range(tokens) for i in range(k)]
        return sorted(every, key=lambda pair: int(self.chosen[pair]))

    @property
    def order(self) -> Tensor:
        """(N,): the same, as numbers of pairs counted token by token."""
        return torch.tensor([t * self.chosen.shape[1] + i for t, i in self.pairs], dtype=torch.int64)

    @property
    def inverse(self) -> Tensor:
        """(N,): where in the sorted rows every pair is."""
        places = {pair: row for row, pair in enumerate(self.pairs)}
        tokens, k = self.chosen.shape
        return torch.tensor([places[t, i] for t in range(tokens) for i in range(k)], dtype=torch.int64)

    @property
    def counts(self) -> Tensor:
        """(E,): rows of every expert."""
        flat = self.chosen.flatten().tolist()
        return torch.tensor([flat.count(expert) for expert in range(self.experts)])

    def dispatch(self, x: Tensor) -> Tensor:
        """(T, D) -> (N, D)."""
        return torch.stack([x[t] for t, _ in self.pairs]) if self.pairs else x.new_empty((0, x.shape[1]))

    def combine(self, rows: Tensor, weights: Tensor) -> Tensor:
        """(N, D), (T, K) -> (T, D)."""
        out = [rows.new_zeros(rows.shape[1]) for _ in self.chosen]
        for row, (t, i) in enumerate(self.pairs):
            out[t] = out[t] + weights[t, i] * rows[row]
        return torch.stack(out) if out else rows.new_empty((0, rows.shape[1]))


@st.composite
def routes(draw: st.DrawFn) -> Route:
    """Any routing, without tokens and with experts that nobody chose included."""
    experts = draw(st.integers(1, 6))
    k = draw(st.integers(1, experts))
    one = st.permutations(range(experts)).map(lambda order: order[:k])
    chosen = draw(st.lists(one, max_size=7))
    return Route(torch.tensor(chosen, dtype=torch.int64).reshape(-1, k), experts)


def random(*shape: int, seed: int = 0, grad: bool = False) -> Tensor:
    """Normal variates, float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_(grad)
