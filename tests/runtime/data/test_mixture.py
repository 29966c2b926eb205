"""Mixtures: the law of `runtime/data/mixture.py`, and batches that keep it at every layout."""

from __future__ import annotations

import math
from bisect import bisect_right
from fractions import Fraction
from itertools import accumulate

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.data.given import Given, parse_data
from moec.runtime.data.layout import assign, capacity
from moec.runtime.data.loader import Loader
from moec.runtime.data.mixture import Blend
from moec.runtime.data.order import permute
from moec.runtime.data.samples import Samples, Source
from moec.runtime.data.source import identity
from moec.runtime.data.stream import ArrayStream
from moec.runtime.errors import UserError

WEIGHTS = st.lists(st.floats(0.01, 10.0), min_size=1, max_size=5)
SEEDS = st.integers(0, 1 << 40)


def stream(first: int, tokens: int) -> ArrayStream:
    """Ids that tell the stream and the place in it."""
    return ArrayStream(f"from {first}", [np.arange(first, first + tokens)], vocab=1 << 20)


@settings(max_examples=100)
@given(WEIGHTS, SEEDS, st.integers(0, 1 << 50), st.integers(0, 60))
def test_places_count_what_came_before(weights: list[float], seed: int, start: int, count: int) -> None:
    """The law, position by position, and how many of each source lie before, as a sum of what is between."""
    blend = Blend(weights, seed)
    sources, places = blend.choose(range(start, start + count))
    before = blend.before(start)
    assert sum(before) == start
    for source, place in zip(sources.tolist(), places.tolist(), strict=True):
        assert place == before[source]
        before[source] += 1
    assert blend.before(start + count) == before


@settings(max_examples=30)
@given(WEIGHTS, SEEDS, st.integers(0, 1000))
def test_the_law_is_the_one_that_is_documented(weights: list[float], seed: int, position: int) -> None:
    """u(p) = (c + p A) mod 2^64 lies in the interval of its source."""
    blend = Blend(weights, seed)
    ends = [round(2**64 * end / sum(map(Fraction, weights))) for end in accumulate(map(Fraction, weights))]
    point = (blend._first + position * 0x9E3779B97F4A7C15) % 2**64
    assert blend.choose(range(position, position + 1))[0][0] == bisect_right(ends[:-1], point)


@settings(max_examples=40)
@given(WEIGHTS, SEEDS)
def test_proportions_hold_for_any_number_of_positions(weights: list[float], seed: int) -> None:
    """Both ends of an interval add at most the discrepancy of the golden ratio: under 1 + log n each."""
    sources, _ = Blend(weights, seed).choose(range(4000))
    for source, weight in enumerate(weights):
        counts, n = np.cumsum(sources == source), np.arange(1, 4001)
        apart = np.abs(counts - n * weight / sum(weights))
        assert (apart <= 2 * (1 + np.log(n))).all()


def test_proportions_are_exact_in_the_long_run() -> None:
    before = Blend([0.7, 0.3], seed=3).before(10**12)
    assert sum(before) == 10**12
    assert abs(before[0] - 7 * 10**11) < 2 * (1 + math.log(1e12))


def test_one_source_gives_every_position_and_scale_does_not_matter() -> None:
    sources, places = Blend([0.3], 5).choose(range(7, 20))
    assert (sources == 0).all()
    assert places.tolist() == list(range(7, 20))
    some, other = (Blend([w, 3 * w], 5).choose(range(500))[0] for w in (1.0, 0.25))
    assert (some == other).all()


def test_a_weight_that_is_no_share_of_2_to_the_64_is_refused() -> None:
    with pytest.raises(UserError, match="1e-30 is too small beside the others"):
        Blend([1.0, 1e-30], 0)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_batches_of_a_mixture_are_the_same_at_every_layout(
    batch: int, micro_batches: int, data_ranks: int, seed: int
) -> None:
    """Each source in its own order, with its own epochs; ranks together hold what the law says."""
    sources = [Source(stream(0, 41), 2.0), Source(stream(1000, 25), 1.0)]
    blend, orders = Blend([2.0, 1.0], seed), {0: 10, 1: 6}
    loaders = [
        Loader(sources, sequence=4, batch_sequences=batch, micro_batches=micro_batches,
               data_ranks=data_ranks, data_rank=rank, seed=seed)
        for rank in range(data_ranks)
    ]  # fmt: skip
    room = capacity(batch, micro_batches, data_ranks)
    for step in range(6):
        chosen, places = blend.choose(range(step * batch, (step + 1) * batch))
        wanted = []
        for source, place in zip(chosen.tolist(), places.tolist(), strict=True):
            epoch, offset = divmod(place, orders[source])
            index = permute(np.array([offset]), orders[source], seed, epoch, source)[0]
            wanted.append(1000 * source + 4 * index)
        for rank, loader in enumerate(loaders):
            found = loader.batch(step)
            for micro, rows in enumerate(assign(batch, micro_batches, data_ranks, room, rank)):
                assert found.tokens[micro, : len(rows), 0].tolist() == wanted[rows.start : rows.stop]
    for loader in loaders:
        loader.close()


def test_an_epoch_of_a_mixture_is_all_its_sequences_in_number() -> None:
    samples = Samples([Source(stream(0, 41), 3.0), Source(stream(1000, 25), 1.0)], 4, seed=0)
    assert samples.count == 10 + 6
    read = samples.epochs(16)
    assert read[0] * 10 + read[1] * 6 == pytest.approx(16)
    assert read[0] > 1 > read[1]


def test_identity_tells_mixtures_apart() -> None:
    a, b = stream(0, 300), stream(1000, 300)
    given_as = {
        "alone": [Source(a)],
        "both": [Source(a), Source(b)],
        "other shares": [Source(a, 2.0), Source(b)],
        "other order": [Source(b), Source(a)],
    }
    found = {name: identity(sources) for name, sources in given_as.items()}
    assert len(set(found.values())) == len(found)
    assert identity([Source(a, 3.0), Source(b, 3.0)]) == found["both"]
    assert identity([Source(a, 5.0)]) == found["alone"]


# --- what --data says ---


def test_weights_are_read_from_the_command_line() -> None:
    assert parse_data(["a.txt"]) == (Given(1.0, "a.txt"),)
    assert parse_data(["0.7*web.jsonl:text", "3e-1*books/", "c"]) == (
        Given(0.7, "web.jsonl:text"), Given(0.3, "books/"), Given(1.0, "c"),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "there is no --data"),
        (["x*a"], "'x' is no weight"),
        (["*a"], "'' is no weight"),
        (["0*a"], "the weight 0 is not a positive number"),
        (["-1*a"], "the weight -1 is not a positive number"),
        (["nan*a"], "the weight nan is not a positive number"),
        (["inf*a"], "the weight inf is not a positive number"),
        (["1e999*a"], "the weight 1e999 is not a positive number"),
        (["2*"], "nothing comes after the weight"),
        (["a", "2*a"], "--data a is given twice"),
        (["a"] * 1001, "1001 sources of --data; at most 1000"),
    ],
)
def test_slips_in_a_mixture_are_one_line(values: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("*", r"\*")) as told:
        parse_data(values)
    assert "\n" not in str(told.value)


def test_a_file_with_a_star_in_its_name_is_itself(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2*3.txt").write_text("six")
    assert parse_data(["2*3.txt"]) == (Given(1.0, "2*3.txt"),)
