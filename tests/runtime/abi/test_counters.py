"""Numbers by counter: those of splitmix64 in whole numbers of Python, wherever and by whom they are made."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from moec.runtime.abi import counter_kernels
from moec.runtime.abi.counter_kernels import hash_experts_kernel, jitter_kernel, mix, noise_key

from .routes import random

WORD, GOLDEN = 1 << 64, 0x9E3779B97F4A7C15
LEAST = settings(deadline=None, max_examples=60)
words = st.integers(-(1 << 63), (1 << 63) - 1)


def splitmix64(x: int) -> int:
    """The finaliser, as its authors print it, of a word from 0 to 2^64 - 1."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return x ^ (x >> 31)


@LEAST
@given(st.lists(words, max_size=5))
def test_mix_is_splitmix64(numbers: list[int]) -> None:
    found = mix(torch.tensor(numbers, dtype=torch.int64))
    assert [word % WORD for word in found.tolist()] == [splitmix64(n % WORD) for n in numbers]


def test_the_stream_of_splitmix64() -> None:
    """Its first numbers from the seed 1234567, as published for checking implementations."""
    stream = [splitmix64((1234567 + i * GOLDEN) % WORD) for i in range(1, 4)]
    assert stream == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_keys_are_words_that_differ() -> None:
    keys = {noise_key(seed, f"layers.{layer}") for seed in range(20) for layer in range(20)}
    assert len(keys) == 400
    assert all(-(1 << 63) <= key < 1 << 63 for key in keys)


# --- jitter ---


def jittered(x: Tensor, first: int = 5, sequence: int = 4, eps: float = 0.25, key: int = -3) -> Tensor:
    return jitter_kernel(x, torch.tensor(key), torch.tensor(first), sequence, eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_jitter_is_its_formula(dtype: torch.dtype) -> None:
    """The 24 highest bits of a number, from [-1, 1), times eps; in every dtype the same."""
    x, width = random(8, 3).to(dtype), 3
    found = jittered(x)
    for t in range(8):
        for d in range(width):
            word = splitmix64((-3 + ((5 * 4 + t) * width + d) * GOLDEN) % WORD)
            factor = 1 + 0.25 * ((word >> 40) / 2**23 - 1)
            assert found[t, d].item() == pytest.approx(x[t, d].item() * factor, rel=1e-6)


def test_factors_are_uniform() -> None:
    """Their mean and variance are those of uniform numbers, to four standard errors; none is out of range."""
    n, eps = 100_000, 0.1
    factors = jittered(torch.ones(n // 50, 50, dtype=torch.float64), eps=eps)
    assert 1 - eps <= factors.min()
    assert factors.max() < 1 + eps
    assert abs(factors.mean().item() - 1) < 4 * eps / (3 * n) ** 0.5
    assert factors.var().item() == pytest.approx(eps**2 / 3, rel=4 * (0.8 / n) ** 0.5)
    neighbours = torch.corrcoef(torch.stack([factors.view(-1)[:-1], factors.view(-1)[1:]]))
    assert abs(neighbours[0, 1].item()) < 4 / n**0.5


@LEAST
@given(st.integers(0, 4), st.integers(0, 1 << 40))
def test_a_sequence_has_its_numbers_wherever_it_is_computed(cut: int, first: int) -> None:
    """Sequences of 3 tokens, cut between two ranks: nobody can tell."""
    x = random(12, 2)
    whole = jittered(x, first, 3)
    parts = jittered(x[: 3 * cut], first, 3), jittered(x[3 * cut :], first + cut, 3)
    assert torch.equal(torch.cat(parts), whole)


def test_another_layer_or_sequence_has_other_numbers() -> None:
    x = torch.ones(4, 8, dtype=torch.float64)
    found = [jittered(x), jittered(x, key=-2), jittered(x, first=6)]
    assert not any(torch.equal(a, b) for a, b in combinations(found, 2))


def test_long_inputs_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    x = random(11, 5)
    whole = jittered(x)
    monkeypatch.setattr(counter_kernels, "_CHUNK", 12)
    assert torch.equal(jittered(x), whole)


def test_jitter_refuses_what_is_not_its_own() -> None:
    zero, x = torch.tensor(0), torch.ones(2, 3)
    for arguments in (
        (x[0], zero, zero, 1, 0.1),
        (x, zero.float(), zero, 1, 0.1),
        (x, zero, zero[None], 1, 0.1),
    ):
        with pytest.raises(ValueError, match="found"):
            jitter_kernel(*arguments)


# --- experts by hash ---


def plain_hash(token: int, k: int, experts: int) -> list[int]:
    """Drawn from a list of the experts that are left."""
    left, base, chosen = list(range(experts)), splitmix64(token * GOLDEN % WORD), []
    for j in range(k):
        rank = (splitmix64((base + j * GOLDEN) % WORD) >> 1) % len(left)
        chosen.append(left.pop(rank))
    return chosen


@LEAST
@given(st.lists(st.integers(0, 1 << 40), max_size=5), st.integers(1, 12), st.integers(0, 20))
def test_hashed_experts_are_drawn_without_putting_back(tokens: list[int], k: int, more: int) -> None:
    found = hash_experts_kernel(torch.tensor([tokens], dtype=torch.int64), k, k + more)
    assert found.tolist() == [plain_hash(token, k, k + more) for token in tokens]
    assert all(len(set(row)) == k for row in found.tolist())


def test_every_pair_of_experts_is_chosen_as_often() -> None:
    """Of 5 experts, ordered, by 20000 tokens: within five standard deviations of 1000 each."""
    chosen = hash_experts_kernel(torch.arange(20_000).view(4, -1), 2, 5)
    counts = Counter(map(tuple, chosen.tolist()))
    assert len(counts) == 20
    assert all(abs(count - 1000) < 5 * 1000**0.5 for count in counts.values())


def test_more_choices_begin_with_the_same() -> None:
    tokens = torch.arange(50)[None]
    assert torch.equal(hash_experts_kernel(tokens, 7, 9)[:, :3], hash_experts_kernel(tokens, 3, 9))


def test_hash_refuses_more_choices_than_experts() -> None:
    for tokens, k, experts in (
        (torch.zeros(1, 2).long(), 5, 4),
        (torch.zeros(1, 2).long(), 0, 4),
        (torch.zeros(1, 2), 1, 4),
    ):
        with pytest.raises(ValueError, match=r"experts|ids"):
            hash_experts_kernel(tokens, k, experts)
