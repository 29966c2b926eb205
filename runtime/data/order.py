"""The order of training samples: a pure function of (seed, position), without state and without a table.

Position p of a run lies in epoch p // samples; every epoch is a permutation of the samples of its own. The
permutation is a balanced Feistel network over the next power of four, made exact by cycle walking (Black
and Rogaway, "Ciphers with arbitrary finite domains", 2002): a value that falls outside is enciphered again
until it falls inside. The round function is the finaliser of splitmix64 (Steele, Lea and Flood, 2014).
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

MAX_SAMPLES = 1 << 62


def sample_indices(
    positions: NDArray[np.int64], samples: int, seed: int, source: int = 0
) -> NDArray[np.int64]:
    """The sample at each position of the run: int64 (n,) -> int64 (n,), each in 0..samples - 1.

    Of a mixture, every `source` has positions, and an order, of its own.

    Raises:
        ValueError: `samples` not in 1..MAX_SAMPLES, or a negative position.
    """
    if not 1 <= samples <= MAX_SAMPLES:
        raise ValueError(f"an order needs 1 to {MAX_SAMPLES} samples, not {samples}")
    if len(positions) and positions.min() < 0:
        raise ValueError("positions count from 0")
    epochs, offsets = np.divmod(positions, samples)
    indices = np.empty_like(positions)
    for epoch in np.unique(epochs):
        inside = epochs == epoch
        indices[inside] = permute(offsets[inside], samples, seed, int(epoch), source)
    return indices


def permute(
    offsets: NDArray[np.int64], samples: int, seed: int, epoch: int, source: int = 0
) -> NDArray[np.int64]:
    """The permutation of 0..samples - 1 in `epoch`, at the given offsets: int64 (n,) -> int64 (n,)."""
    half_bits = max(
        1, ((samples - 1).bit_length() + 1) // 2
    )  # samples <= 4 ** half_bits < 4 * samples, from 2 on
    keys = _round_keys(seed, epoch, source)
    values = _encipher(offsets.astype(np.uint64), half_bits, keys)
    while (outside := values >= samples).any():
        values[outside] = _encipher(values[outside], half_bits, keys)
    return values.astype(np.int64)


@lru_cache(maxsize=64)
def _round_keys(seed: int, epoch: int, source: int) -> tuple[np.uint64, ...]:
    """Eight independent round keys."""
    name = f"moec.order.v1\n{seed}\n{epoch}" + (f"\n{source}" if source else "")
    digest = hashlib.sha512(name.encode()).digest()
    return tuple(np.frombuffer(digest, dtype="<u8").astype(np.uint64))


def _encipher(values: NDArray[np.uint64], half_bits: int, keys: tuple[np.uint64, ...]) -> NDArray[np.uint64]:
    """A bijection of 0..4 ** half_bits - 1."""
    shift, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = values >> shift, values & mask
    for key in keys:
        left, right = right, left ^ (_mix(right + key) & mask)
    return (left << shift) | right


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64, modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
