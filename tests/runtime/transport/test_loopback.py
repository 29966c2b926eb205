"""What a network would answer with a hang, loopback answers with an error."""

from __future__ import annotations

import threading

import pytest
import torch

from moec.runtime.transport.api import Group, Transport, TransportError
from moec.runtime.transport.loopback import run_ranks


def everybody(transport: Transport, axis: str = "world") -> Group:
    return transport.groups({axis: [list(range(transport.world))]})[axis]


def test_results_come_back_by_rank() -> None:
    assert run_ranks(3, lambda transport: transport.rank * 10) == [0, 10, 20]


def test_a_rank_that_raises_wakes_the_others_and_its_exception_is_the_one_raised() -> None:
    woken = []

    def program(transport: Transport) -> None:
        group = everybody(transport)
        if transport.rank == 2:
            raise KeyError("mine")
        try:
            group.all_reduce(torch.ones(1)).wait()
        except TransportError as error:
            woken.append(str(error))
            raise

    with pytest.raises(KeyError, match=r"mine") as caught:
        run_ranks(4, program)
    assert caught.value.__notes__ == ["raised on rank 2 of 4"]
    assert woken == ["all_reduce: rank 2 failed: KeyError: 'mine'"] * 3


def test_a_rank_that_ends_early_is_missed_by_name() -> None:
    def program(transport: Transport) -> None:
        group = everybody(transport)
        if transport.rank:
            group.all_gather(torch.ones(2)).wait()

    with pytest.raises(
        TransportError, match=r"no rank can go on \(ended: \[0\]\).*all_gather.*not started by ranks \[0\]"
    ):
        run_ranks(3, program)


def test_ranks_that_wait_for_each_other_in_a_ring_are_told() -> None:
    def program(transport: Transport) -> None:
        first, second = ("one", "other") if transport.rank else ("other", "one")
        groups = transport.groups({axis: [[0, 1]] for axis in ("one", "other")})
        groups[first].all_reduce(torch.ones(1)).wait()
        groups[second].all_reduce(torch.ones(1)).wait()

    with pytest.raises(
        TransportError,
        match=r"rank 0 waits for collective 0 of 'other'.*rank 1 waits for collective 0 of 'one'",
    ):
        run_ranks(2, program)


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(2, dtype=torch.float64)])
def test_members_that_disagree_on_shape_or_dtype_are_told_both(other: torch.Tensor) -> None:
    def program(transport: Transport) -> None:
        everybody(transport).all_reduce(other if transport.rank else torch.ones(2)).wait()

    with pytest.raises(
        TransportError, match=r"collective 0 of 'world' is all_reduce.* on rank . and all_reduce.* on rank"
    ):
        run_ranks(2, program)


def test_members_that_start_different_collectives_are_told_both() -> None:
    def program(transport: Transport) -> None:
        group = everybody(transport)
        (group.all_gather if transport.rank else group.all_reduce)(torch.ones(2)).wait()

    with pytest.raises(TransportError, match=r"all_gather.*all_reduce|all_reduce.*all_gather"):
        run_ranks(2, program)


def test_row_counts_that_do_not_match_between_two_members_are_told() -> None:
    def program(transport: Transport) -> None:
        send, receive = ([0, 2], [0, 1]) if transport.rank == 0 else ([1, 0], [1, 0])
        everybody(transport).all_to_all(torch.ones(sum(send)), send, receive).wait()

    with pytest.raises(TransportError, match=r"member 0 sends 2 rows to member 1, which expects 1"):
        run_ranks(2, program)


def test_abort_ends_every_wait_from_any_thread() -> None:
    def program(transport: Transport) -> None:
        group = everybody(transport)
        if transport.rank == 0:
            thread = threading.Thread(target=transport.abort, args=(86,))
            thread.start()
            thread.join()
        group.all_reduce(torch.ones(1)).wait()

    with pytest.raises(TransportError, match=r"rank 0 ended the job with exit code 86"):
        run_ranks(3, program)


def test_two_jobs_at_once_do_not_meet() -> None:
    def inner(transport: Transport) -> float:
        return float(everybody(transport).all_reduce(torch.ones(())).wait())

    def outer(transport: Transport) -> list[float]:
        return run_ranks(transport.rank + 1, inner)

    assert run_ranks(3, outer) == [[1.0], [2.0, 2.0], [3.0, 3.0, 3.0]]
