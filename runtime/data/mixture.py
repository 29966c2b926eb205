"""Which source of a mixture gives the sequence at a position of a run: a pure function of (seed, position).

The law. With A the odd number next to 2^64 over the golden ratio and c a hash of the seed,

    u(p) = (c + p * A) mod 2^64

and source k has the interval of 0..2^64 - 1 that is as long as its share of all weights, one after the other
in the order given. Position p belongs to the source whose interval holds u(p).

So u is an additive recurrence (Weyl, 1916) with the step that spreads its points most evenly: of any n
positions in a row source k has n * w_k, up to a difference that grows no faster than log n (Niederreiter,
"Random Number Generation and Quasi-Monte Carlo Methods", 1992, chapter 3), and of 2^64 exactly its share. How
many positions before p are those of k is a sum of floors, found in some sixty steps however large p is: that
count is the position in the source's own order, with epochs of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from moec.runtime.errors import UserError

_WORD = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15


class Blend:
    """The law for sources of some weights.

    Raises:
        UserError: a weight is so small beside the others that its source would never come.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        exact = [Fraction(weight) for weight in weights]
        ends = [round(_WORD * end / sum(exact)) for end in accumulate(exact)]
        self._bounds = [0, *ends]
        for index, (low, high) in enumerate(zip(self._bounds, ends, strict=False)):
            if low >= high:
                raise UserError(
                    f"the weight {weights[index]:g} is too small beside the others: it is no share"
                )
        digest = hashlib.sha256(f"moec.mixture.v1\n{seed}".encode()).digest()
        self._first = int.from_bytes(digest[:8], "little")

    def before(self, position: int) -> list[int]:
        """Of the positions below `position`, how many belong to each source."""
        below = [self._below(position, bound) for bound in self._bounds]
        return [high - low for low, high in pairwise(below)]

    def choose(self, positions: range) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source at each of consecutive positions (n,), and its place in that source's own order (n,)."""
        steps = np.arange(len(positions), dtype=np.uint64) * np.uint64(_GOLDEN)
        points = steps + np.uint64((self._first + positions.start * _GOLDEN) % _WORD)
        inner = np.array(self._bounds[1:-1], dtype=np.uint64)
        sources = np.searchsorted(inner, points, side="right").astype(np.int64)
        places = np.empty(len(positions), np.int64)
        for source, count in enumerate(self.before(positions.start)):
            mine = sources == source
            places[mine] = np.arange(count, count + int(mine.sum()))
        return sources, places

    def _below(self, position: int, bound: int) -> int:
        """How many of the first `position` points are less than `bound`: x mod m < b counts
        floor(x / m) - floor((x - b) / m)."""
        all_turns = _floor_sum(position, _WORD, _GOLDEN, self._first)
        return all_turns - (_floor_sum(position, _WORD, _GOLDEN, self._first - bound + _WORD) - position)


def _floor_sum(n: int, m: int, a: int, b: int) -> int:
    """The sum over i < n of floor((a * i + b) / m), in O(log m), for a and b from 0 on.

    As Euclid's algorithm goes: whole parts of a / m and b / m are taken out, then rows and columns swapped.
    """
    total = 0
    while n > 0:
        total += n * (n - 1) // 2 * (a // m) + n * (b // m)
        a, b = a % m, b % m
        last = a * n + b
        if last < m:
            break
        n, b = divmod(last, m)
        m, a = a, m
    return total
