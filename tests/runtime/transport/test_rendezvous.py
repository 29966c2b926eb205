"""How the ranks of a torch.distributed job find each other, and nobody else."""

from __future__ import annotations

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from moec.runtime.errors import EnvironmentMismatch
from moec.runtime.transport.api import Transport, TransportError
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.transport.torch_dist import _store_over, address_towards


def test_ranks_meet_at_one_store_on_a_port_of_the_systems_choice() -> None:
    def program(transport: Transport) -> list[bytes]:
        store = _store_over(transport, timeout_s=20)
        store.set(f"rank {transport.rank}", str(transport.rank))
        transport.exchange(b"")
        words = [store.get(f"rank {rank}") for rank in range(transport.world)]
        transport.exchange(b"")  # rank 0 has the store
        return words

    assert run_ranks(3, program) == [[b"0", b"1", b"2"]] * 3


def test_a_store_of_another_job_is_refused() -> None:
    """As when a port has been taken over between the telling and the connecting."""

    def program(transport: Transport) -> None:
        if transport.rank == 0:
            store = TCPStore("127.0.0.1", 0, 2, True, wait_for_workers=False)
            store.set("moec/job", "theirs")
            transport.exchange(b"here")
            transport.exchange(f"127.0.0.1 {store.port} ours".encode())
        else:
            with pytest.raises(TransportError, match="belongs to another job"):
                _store_over(transport, timeout_s=20)
        transport.exchange(b"")

    run_ranks(2, program)


def test_the_address_of_rank_0_is_the_one_on_the_route_to_another_machine() -> None:
    assert address_towards("127.0.0.1") == "127.0.0.1"


def test_no_route_to_another_machine_is_an_error_of_the_environment() -> None:
    with pytest.raises(EnvironmentMismatch, match=r"no route to 256\.0\.0\.1"):
        address_towards("256.0.0.1")
