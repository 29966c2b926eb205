"""The order of samples: a permutation of its own in every epoch, at any size, in any piece."""

from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from moec.runtime.data.order import MAX_SAMPLES, permute, sample_indices

SEEDS = st.integers(0, 2**64)


def order(samples: int, seed: int, epoch: int = 0) -> list[int]:
    return list(map(int, permute(np.arange(samples), samples, seed, epoch)))


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 5000), SEEDS, st.integers(0, 10**6))
@example(1, 0, 0)
@example(2, 0, 0)
@example(4, 0, 0)
@example(5, 0, 0)
@example(4096, 0, 0)
@example(4097, 0, 0)
def test_an_epoch_holds_every_sample_once(samples: int, seed: int, epoch: int) -> None:
    assert sorted(order(samples, seed, epoch)) == list(range(samples))


@settings(deadline=None)
@given(st.integers(5000, MAX_SAMPLES), SEEDS, st.integers(0, 10), st.data())
def test_large_epochs_stay_in_range_and_never_repeat(
    samples: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, samples - 1000))
    indices = permute(np.arange(start, start + 1000), samples, seed, epoch)
    assert indices.min() >= 0
    assert indices.max() < samples
    assert len(set(indices.tolist())) == 1000


@settings(deadline=None)
@given(
    st.integers(1, 300), SEEDS, st.integers(0, 1000), st.lists(st.integers(1, 100), min_size=1, max_size=20)
)
def test_the_order_does_not_depend_on_the_pieces_it_is_asked_in(
    samples: int, seed: int, start: int, sizes: list[int]
) -> None:
    together = sample_indices(np.arange(start, start + sum(sizes)), samples, seed)
    pieces, first = [], start
    for size in sizes:
        pieces.append(sample_indices(np.arange(first, first + size), samples, seed))
        first += size
    assert np.concatenate(pieces).tolist() == together.tolist()


@settings(deadline=None)
@given(st.integers(1, 100), SEEDS, st.integers(1, 5))
def test_positions_roll_over_into_the_next_epochs(samples: int, seed: int, epochs: int) -> None:
    indices = sample_indices(np.arange(epochs * samples), samples, seed).reshape(epochs, samples)
    assert [row.tolist() for row in indices] == [order(samples, seed, epoch) for epoch in range(epochs)]


def test_seeds_and_epochs_give_different_orders() -> None:
    orders = {tuple(order(100, seed, epoch)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400


def test_every_permutation_of_a_few_samples_is_equally_likely() -> None:
    """Chi-square over all permutations of 4, at one in ten thousand (23 degrees of freedom)."""
    runs = 24 * 200
    counts = Counter(tuple(order(4, seed)) for seed in range(runs))
    expected = runs / 24
    assert sum((counts[p] - expected) ** 2 / expected for p in permutations(range(4))) < 58.6


@pytest.mark.parametrize("samples", [7, 16, 79, 100])
def test_every_sample_is_equally_likely_at_every_position(samples: int) -> None:
    """Chi-square over (position, sample), normalised to unit deviation; five deviations either way."""
    runs = 3000
    counts = np.zeros((samples, samples))
    for seed in range(runs):
        counts[np.arange(samples), order(samples, seed)] += 1
    expected = runs / samples
    freedom = (samples - 1) ** 2
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert abs(statistic - freedom) < 5 * (2 * freedom) ** 0.5


def test_neighbours_land_far_apart_as_often_as_by_chance() -> None:
    samples = 100_000
    steps = np.abs(np.diff(order(samples, 1)))
    assert (
        abs(steps.mean() - samples / 3) < 0.01 * samples
    )  # the mean distance of two random points is a third


def test_the_order_of_a_seed_is_fixed_for_ever() -> None:
    """A run is resumed by its step alone, so a change of the order is a change of format."""
    assert order(10, 0) == [6, 5, 7, 4, 8, 9, 0, 1, 2, 3]
    large = permute(np.arange(3), 10**12, 1, 2).tolist()
    assert large == [990874465329, 250423201471, 509626610790]


@pytest.mark.parametrize(("positions", "samples"), [([0], 0), ([0], MAX_SAMPLES + 1), ([-1], 5)])
def test_impossible_requests_are_refused(positions: list[int], samples: int) -> None:
    with pytest.raises(ValueError, match=r"samples|positions"):
        sample_indices(np.array(positions), samples, 0)
