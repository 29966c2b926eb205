"""Meters of collectives: bytes by their formulas, seconds by the clock, results as without one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.profile.meter import Meter, MeteredGroup, Moved
from moec.runtime.profile.work import Work
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.transport.single import SingleTransport


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(0, 5), st.lists(st.integers(0, 3), min_size=16, max_size=16))
def test_bytes_are_those_that_have_to_be_sent(world: int, rows: int, counts: list[int]) -> None:
    """Of float64 rows of three: 24 bytes each."""
    matrix = [counts[i * 4 : i * 4 + world] for i in range(world)]

    def rank(transport: Transport) -> tuple[dict[tuple[str, str], int], list[list[float]]]:
        meter = Meter()
        group = meter.groups(transport.groups({"shard": [list(range(world))]}))["shard"]
        assert (group.size, group.index) == (world, transport.rank)
        send = matrix[transport.rank]
        receive = [row[transport.rank] for row in matrix]
        shard = torch.full((rows, 3), float(transport.rank + 1), dtype=torch.float64)
        handles = [
            group.all_gather(shard),
            group.reduce_scatter(torch.ones(world * rows, 3, dtype=torch.float64)),
            group.all_reduce(shard),
            group.all_to_all(torch.ones(sum(send), 3, dtype=torch.float64), send, receive),
            group.broadcast(shard, 0),
        ]
        return dict(meter.take().sent_bytes), [handle.wait().flatten().tolist() for handle in handles]

    for index, (sent, results) in enumerate(run_ranks(world, rank)):
        others = world - 1
        assert sent == {
            ("shard", "all_gather"): others * rows * 24,
            ("shard", "reduce_scatter"): others * rows * 24,
            ("shard", "all_reduce"): 2 * rows * 24 * others // world,
            ("shard", "all_to_all"): 24 * (sum(matrix[index]) - matrix[index][index]),
            ("shard", "broadcast"): rows * 24 * others // world,
        }
        assert results[0] == [float(r + 1) for r in range(world) for _ in range(rows * 3)]
        assert results[1] == [float(world)] * (rows * 3)
        assert results[2] == [world * (world + 1) / 2] * (rows * 3)
        assert len(results[3]) == 3 * sum(row[index] for row in matrix)
        assert results[4] == [1.0] * (rows * 3)


def ticks(*times_s: float) -> Iterator[float]:
    yield from times_s


def test_seconds_are_those_in_the_two_halves_and_are_taken_once() -> None:
    clock = ticks(1.0, 1.5, 10.0, 13.0)
    meter = Meter(clock=lambda: next(clock))
    group = MeteredGroup(SingleTransport().groups({"a": [[0]]})["a"], "a", meter)
    group.all_reduce(torch.ones(2)).wait()
    moved = meter.take()
    assert (moved.start_s, moved.wait_s) == (0.5, 3.0)
    assert meter.take() == Moved()


def test_what_is_refused_is_not_counted() -> None:
    meter = Meter()
    group = meter.groups(SingleTransport().groups({"a": [[0]]}))["a"]
    with pytest.raises(ValueError, match="do not add up"):
        group.all_to_all(torch.ones(2), [1], [1])
    assert meter.take() == Moved()


def test_the_parts_of_a_step_add_up() -> None:
    moved = Moved({("shard", "all_gather"): 8, ("data", "all_reduce"): 0}, start_s=1.0, wait_s=2.0)
    work = Work(start_s=100.0, step_s=10.0, data_s=0.5, moved=moved)
    times = work.times_s()
    assert times == {"data": 0.5, "compute": 6.5, "collectives": 3.0, "waiting": 2.0}
    assert times["data"] + times["compute"] + times["collectives"] == work.step_s
    assert moved.by_axis() == {"shard": {"all_gather": 8}}
