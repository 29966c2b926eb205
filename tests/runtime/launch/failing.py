"""A rank's program that fails as it is told: `failing.py SCENARIO TRANSPORT`. For `test_guard.py`."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable

import torch

from moec.runtime.errors import NumericalError, UserError
from moec.runtime.guard import run_rank
from moec.runtime.launch import discover
from moec.runtime.transport.api import Transport
from moec.runtime.transport.factory import make_transport

BAD = 1  # the rank that fails, where one does


def wait_for_all(transport: Transport) -> None:
    """What the healthy ranks are doing: a collective that the failing one never starts."""
    group = transport.groups({"world": [list(range(transport.world))]})["world"]
    if transport.rank != BAD:
        group.all_reduce(torch.ones(1)).wait()


def one_bug(transport: Transport) -> int:
    wait_for_all(transport)
    raise ZeroDivisionError("a bug")


def one_failure(transport: Transport) -> int:
    wait_for_all(transport)
    raise NumericalError("loss is nan", operation="all_reduce of gradients", origin="tiny.moe:7")


def all_alike(transport: Transport) -> int:
    raise UserError("no file data.txt")


def all_but_one_alike(transport: Transport) -> int:
    raise UserError("other" if transport.rank == BAD else "alike")


def one_code(transport: Transport) -> int:
    wait_for_all(transport)
    return 75


def all_codes(transport: Transport) -> int:
    transport.close()
    return 75


def one_exit(transport: Transport) -> int:
    wait_for_all(transport)
    sys.exit(3)


def abort_from_a_thread(transport: Transport) -> int:
    """As a watchdog does: every main thread is in a collective that never ends."""
    if transport.rank == BAD:
        threading.Timer(0.5, transport.abort, (86,)).start()
    everybody = [list(range(transport.world))]
    groups = transport.groups({"one": everybody, "other": everybody})
    groups["one" if transport.rank == BAD else "other"].all_reduce(torch.ones(1)).wait()
    raise AssertionError("not reached")


def one_stalls(transport: Transport) -> int:
    wait_for_all(transport)
    time.sleep(60)
    raise AssertionError("not reached")


def success(transport: Transport) -> int:
    transport.close()
    return 0


SCENARIOS: dict[str, Callable[[Transport], int]] = {
    function.__name__: function
    for function in (
        one_bug,
        one_failure,
        all_alike,
        all_but_one_alike,
        one_code,
        all_codes,
        one_exit,
        abort_from_a_thread,
        one_stalls,
        success,
    )
}


def main() -> int:
    scenario, transport = sys.argv[1:]
    if scenario == "all_before":
        raise UserError("not a bundle: nowhere")
    if scenario == "one_before" and discover().rank == BAD:
        raise UserError("no such file on this machine")
    timeout_s = 8 if scenario == "one_stalls" else 60
    return SCENARIOS.get(scenario, success)(make_transport(transport, timeout_s=timeout_s))


if __name__ == "__main__":
    sys.exit(run_rank(main))
