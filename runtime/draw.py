"""Initial values of parameters, drawn by counter: any slice on its own, the same at every layout.

Element i of a parameter is a function of (seed, name, i) alone. The generator is Philox4x64-10 (Salmon et
al., SC 2011) in numpy's implementation, whose stream numpy guarantees not to change: with the key taken
from SHA-256 of seed and name, element i has word i of that stream, and elements 2j and 2j + 1 share one
Box-Muller transform, in float64.

The integers are the same on every machine. log, sin and cos are those of numpy, so that CPUs of different
kinds may disagree in the last bit of a float64 variate; on one kind of CPU every slice is equal bit for
bit.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

_CHUNK = 1 << 16  # elements at a time: the scratch arrays stay in a core's cache
_WORDS_PER_BLOCK = 4  # Philox4x64 makes four words of 64 bits for each value of its counter


def normal(seed: int, name: str, start: int, count: int, std: float, dtype: torch.dtype) -> torch.Tensor:
    """Elements start..start + count - 1 of parameter `name`, N(0, std^2): a CPU tensor (count,) of `dtype`.

    `start` counts elements of the whole parameter, flattened in row-major order.

    Raises:
        ValueError: a negative `start` or `count`.
    """
    if start < 0 or count < 0:
        raise ValueError(f"cannot draw {count} elements of {name} from element {start} on")
    key = _key(seed, name)
    out = torch.empty(count, dtype=dtype)
    for first in range(0, count, _CHUNK):
        size = min(_CHUNK, count - first)
        out[first : first + size] = torch.from_numpy(_variates(key, start + first, size) * std)
    return out


def _key(seed: int, name: str) -> int:
    """The 128-bit Philox key of a parameter."""
    return int.from_bytes(hashlib.sha256(f"moec.draw.v1\n{seed}\n{name}".encode()).digest()[:16], "little")


def _variates(key: int, start: int, count: int) -> NDArray[np.float64]:
    """Standard normal variates start..start + count - 1, float64 (count,)."""
    even = start - start % 2
    words = _words(key, even, start - even + count + (start + count) % 2)
    # Both halves are copied out as contiguous arrays, so that every element takes the same vectorised path.
    radius = np.sqrt(-2.0 * np.log(((words[0::2] >> np.uint64(11)) + np.uint64(1)) * 2.0**-53))  # of (0, 1]
    angle = (words[1::2] >> np.uint64(11)) * (2.0 * np.pi * 2.0**-53)  # [0, 2 pi)
    pairs = np.empty((len(angle), 2))
    np.multiply(radius, np.cos(angle), out=pairs[:, 0])
    np.multiply(radius, np.sin(angle), out=pairs[:, 1])
    return pairs.reshape(-1)[start - even : start - even + count]


def _words(key: int, start: int, count: int) -> NDArray[np.uint64]:
    """Words start..start + count - 1 of the stream `numpy.random.Philox(key=key)`, uint64 (count,)."""
    block, lane = divmod(start, _WORDS_PER_BLOCK)
    words: NDArray[np.uint64] = np.random.Philox(key=key, counter=block).random_raw(lane + count)
    return words[lane:]
