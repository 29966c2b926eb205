"""Random-looking numbers by counter: each is a function of what it belongs to, whoever computes it, and when.

All are made by the finaliser of splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number
generators", 2014), in whole numbers modulo 2^64: the same on every machine.

Legend: T tokens, D width, B sequences, S tokens of a sequence, K choices, E experts.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from .dtypes import wide
from .guards import require

_WORD, _HALF = 1 << 64, 1 << 63
_BITS = 24  # of a random number: float32 holds it exactly, so that every dtype has the same
_CHUNK = 1 << 22  # elements at a time: bounds the scratch memory


def _signed(word: int) -> int:
    """A word of 64 bits as torch's int64 has it."""
    return (word + _HALF) % _WORD - _HALF


_GOLDEN = _signed(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio, odd
_FACTORS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))


def noise_key(seed: int, name: str) -> int:
    """The key of the random numbers of `name` in a run of `seed`: an int64."""
    digest = hashlib.sha256(f"moec.noise.v1\n{seed}\n{name}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def mix(words: Tensor) -> Tensor:
    """int64 -> int64: a bijection whose every bit of output depends on every bit of input."""
    words = (words ^ _shifted(words, 30)) * _FACTORS[0]
    words = (words ^ _shifted(words, 27)) * _FACTORS[1]
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    """Shifted right, zeros coming in: torch's own shift of int64 brings the sign in."""
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def jitter_kernel(x: Tensor, key: Tensor, first: Tensor, sequence: int, eps: float) -> Tensor:
    """(T, D) times uniform numbers from [1 - eps, 1 + eps).

    Element (t, d) takes number (first * S + t) * D + d of `key`, both () int64; `first` is the position in
    the run of the sequence that x begins with.
    """
    require(x.dim() == 2 and x.dtype.is_floating_point, "jitter is of (T, D), floating point", x)
    whole = all(n.dim() == 0 and n.dtype == torch.int64 for n in (key, first))
    require(whole and sequence > 0, "key and first are whole numbers", key, first)
    out, width = torch.empty_like(x), x.shape[1]
    rows = max(1, _CHUNK // max(1, width))
    for begin in range(0, x.shape[0], rows):
        part = x[begin : begin + rows]
        index = torch.arange(part.numel(), device=x.device) + (first * sequence + begin) * width
        random = _shifted(mix(key + index * _GOLDEN), 64 - _BITS).view(part.shape).to(wide(x))
        out[begin : begin + rows] = part * (1.0 + eps * (random * 2.0 ** (1 - _BITS) - 1.0))
    return out


def random_order_kernel(key: Tensor, first: Tensor, tokens: int) -> Tensor:
    """A permutation (T,) int64 of tokens: they are sorted by random numbers.

    Token t has number first * T + t of `key`, both () int64; `first` is the position in the run of the
    sequence that the tokens begin with.
    """
    whole = all(n.dim() == 0 and n.dtype == torch.int64 for n in (key, first))
    require(whole and tokens >= 0, "key and first are whole numbers", key, first)
    index = torch.arange(tokens, device=key.device) + first * tokens
    return mix(key + index * _GOLDEN).argsort(stable=True)


def hash_experts_kernel(tokens: Tensor, k: int, experts: int) -> Tensor:
    """(B, S) int64 -> (T, K) int64: K different experts of each token, by its id alone.

    The j-th is the r-th, counted from 0, of the experts that are not chosen yet, in their order, where r =
    h(id, j) mod (E - j), and h(id, j) = mix(mix(id * golden) + j * golden), its highest 63 bits. So every set
    of K experts is as likely as any other.
    """
    require(tokens.dtype == torch.int64, "token ids are int64", tokens)
    require(0 < k <= experts, f"{k} different experts of {experts}")
    base = mix(tokens.reshape(-1) * _GOLDEN)
    chosen = [_shifted(mix(base), 1) % experts]
    for j in range(1, k):
        rank = _shifted(mix(base + _signed(j * _GOLDEN)), 1) % (experts - j)
        for taken in torch.stack(chosen, 1).sort(1).values.unbind(1):
            rank = rank + (rank >= taken)
        chosen.append(rank)
    return torch.stack(chosen, 1)
