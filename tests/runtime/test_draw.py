"""Parameter draws depend on seed, name and element index, and on nothing else."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.draw import normal

WHOLE = 200_000  # spans several internal chunks
STD = 0.02


def whole(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return normal(7, "layers.3.attention.q", 0, WHOLE, STD, dtype)


def reference(seed: int, name: str, count: int) -> np.ndarray:
    """The definition in the module's docstring, element by element, with the standard library's functions."""
    key = hashlib.sha256(f"moec.draw.v1\n{seed}\n{name}".encode()).digest()[:16]
    words = np.random.Philox(key=int.from_bytes(key, "little")).random_raw(count + count % 2).tolist()
    values = []
    for first, second in zip(words[0::2], words[1::2], strict=True):
        radius = math.sqrt(-2.0 * math.log(((first >> 11) + 1) / 2**53))
        angle = 2.0 * math.pi * ((second >> 11) / 2**53)
        values += [radius * math.cos(angle), radius * math.sin(angle)]
    return np.array(values[:count])


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, WHOLE),
    st.integers(0, WHOLE),
    st.sampled_from([torch.float32, torch.bfloat16, torch.float64]),
)
def test_any_slice_equals_the_same_slice_of_the_whole_bit_for_bit(
    one: int, other: int, dtype: torch.dtype
) -> None:
    start, end = sorted((one, other))
    part = normal(7, "layers.3.attention.q", start, end - start, STD, dtype)
    assert part.dtype == dtype
    assert torch.equal(part, whole(dtype)[start:end])


@given(st.integers(1, 40), st.integers(0, 2**40))
@settings(deadline=None)
def test_single_elements_far_into_a_parameter_are_those_of_a_run_over_them(count: int, start: int) -> None:
    run = normal(1, "embed", start, count, 1.0, torch.float64)
    singles = torch.cat([normal(1, "embed", start + i, 1, 1.0, torch.float64) for i in range(count)])
    assert torch.equal(run, singles)


@pytest.mark.parametrize("seed", [0, 1, 2**70])
def test_values_are_box_muller_of_the_named_philox_stream(seed: int) -> None:
    drawn = normal(seed, "logits", 0, 10_001, 1.0, torch.float64).numpy()
    np.testing.assert_allclose(drawn, reference(seed, "logits", 10_001), rtol=1e-13, atol=1e-13)


def test_philox_words_are_the_known_answers_of_random123() -> None:
    """kat_vectors of Random123 (Salmon et al.), philox4x64-10: all zero, and the digits of pi."""
    pi = [0x243F6A8885A308D3, 0x13198A2E03707344, 0xA4093822299F31D0, 0x082EFA98EC4E6C89]
    key = [0x452821E638D01377, 0xBE5466CF34E90C6C]
    cases = [
        (
            [0, 0, 0, 0],
            [0, 0],
            [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B],
        ),
        (pi, key, [0xA528F45403E61D95, 0x38C72DBD566E9788, 0xA5A1610E72FD18B5, 0x57BD43B5E52B7FE6]),
    ]
    for counter, words, expected in cases:
        as_int = sum(word << (64 * i) for i, word in enumerate(counter))
        before = (as_int - 1) % 2**256  # numpy counts up before it enciphers
        stream = np.random.Philox(counter=before, key=sum(word << (64 * i) for i, word in enumerate(words)))
        assert stream.random_raw(4).tolist() == expected


def test_mean_deviation_and_shape_are_those_of_a_normal_distribution() -> None:
    values = normal(11, "layers.0.experts.expert.5.gate", 0, 1_000_000, 1.0, torch.float64)
    share = len(values) ** -0.5
    assert abs(values.mean().item()) < 5 * share
    assert abs(values.var().item() - 1) < 5 * math.sqrt(2) * share
    assert abs((values**3).mean().item()) < 5 * math.sqrt(15) * share
    assert abs((values**4).mean().item() - 3) < 5 * math.sqrt(96) * share
    ranks = torch.arange(1, len(values) + 1) / len(values)
    distance = (torch.special.ndtr(values.sort().values) - ranks).abs().max().item()
    assert distance < 1.95 * share  # Kolmogorov-Smirnov, one in a thousand


def test_neighbours_and_the_two_halves_of_a_pair_are_uncorrelated() -> None:
    values = normal(5, "norm", 0, 400_000, 1.0, torch.float64)
    for lag in (1, 2, 3, 4, 8):
        assert abs((values[:-lag] * values[lag:]).mean().item()) < 5 * len(values) ** -0.5
    squares = values.reshape(-1, 2) ** 2 - 1
    assert abs(squares.prod(dim=1).mean().item()) < 5 * 2 * len(squares) ** -0.5


def test_names_and_seeds_give_independent_values() -> None:
    drawn = [
        normal(*key, 0, 100_000, 1.0, torch.float64) for key in [(0, "a"), (0, "b"), (1, "a"), (10, "a")]
    ]
    correlations = torch.corrcoef(torch.stack(drawn)) - torch.eye(4)
    assert correlations.abs().max().item() < 5 * 100_000**-0.5


def test_the_deviation_scales_before_rounding() -> None:
    exact = normal(7, "layers.3.attention.q", 0, 1000, 1.0, torch.float64)
    assert torch.equal(whole()[:1000], (exact * STD).float())


def test_nothing_is_drawn_for_a_count_of_zero_and_negative_slices_are_refused() -> None:
    assert normal(0, "x", 5, 0, 1.0, torch.bfloat16).shape == (0,)
    for start, count in ((-1, 1), (0, -1)):
        with pytest.raises(ValueError, match="cannot draw"):
            normal(0, "x", start, count, 1.0, torch.float32)
