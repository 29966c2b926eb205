"""Cutting a global batch: every sequence is computed once, by one rank, in one micro-batch."""

from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.data.layout import Steps, assign, capacity
from moec.runtime.errors import UserError

DEGREES = st.integers(1, 40)


@settings(deadline=None, max_examples=500)
@given(st.integers(1, 300), DEGREES, DEGREES, st.data())
def test_every_sequence_is_assigned_once_and_in_order(
    batch: int, micro_batches: int, data_ranks: int, data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, batch))
    room = capacity(batch, micro_batches, data_ranks)
    ranks = [assign(n, micro_batches, data_ranks, room, rank) for rank in range(data_ranks)]
    seen = [number for micro in range(micro_batches) for rank in ranks for number in rank[micro]]
    assert seen == list(range(n))
    assert all(len(rank) == micro_batches for rank in ranks)
    assert all(len(rows) <= room for rank in ranks for rows in rank)


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 300), DEGREES, DEGREES, DEGREES)
def test_micro_batches_hold_the_same_sequences_at_any_number_of_ranks(
    n: int, micro_batches: int, some: int, other: int
) -> None:
    def micro(data_ranks: int) -> list[list[int]]:
        room = capacity(n, micro_batches, data_ranks)
        ranks = [assign(n, micro_batches, data_ranks, room, rank) for rank in range(data_ranks)]
        return [[number for rank in ranks for number in rank[m]] for m in range(micro_batches)]

    assert micro(some) == micro(other)


@settings(deadline=None)
@given(st.integers(1, 10_000), DEGREES, DEGREES)
def test_capacity_is_two_roundings_up(batch: int, micro_batches: int, data_ranks: int) -> None:
    assert capacity(batch, micro_batches, data_ranks) == ceil(ceil(batch / micro_batches) / data_ranks)


def test_a_short_batch_leaves_later_ranks_and_micro_batches_empty() -> None:
    assert assign(5, 4, 2, capacity(16, 4, 2), 0) == (range(2), range(2, 4), range(4, 5), range(5, 5))
    assert [len(rows) for rows in assign(5, 4, 2, capacity(16, 4, 2), 1)] == [0, 0, 0, 0]


@settings(deadline=None)
@given(st.integers(1, 200), st.integers(1, 50), st.integers(1, 4))
def test_the_steps_of_an_epoch_run_cover_its_positions_once(samples: int, batch: int, epochs: int) -> None:
    steps = Steps(samples, batch, epochs)
    assert steps.count is not None
    spans = [steps.span(step) for step in range(steps.count)]
    assert [position for span in spans for position in span] == list(range(epochs * samples))
    assert all(len(span) == batch for span in spans[:-1])


def test_a_run_without_epochs_has_no_end() -> None:
    assert Steps(3, 8).count is None
    assert Steps(3, 8).span(10**9) == range(8 * 10**9, 8 * 10**9 + 8)


def test_a_step_past_the_last_epoch_is_refused_with_the_numbers() -> None:
    with pytest.raises(UserError, match=r"step 5 .* 2 epoch.* 10 sequences, in batches of 4, make 5 steps"):
        Steps(10, 4, 2).span(5)
