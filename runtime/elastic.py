"""Going on without ranks that are lost: the survivors shrink to a smaller plan and resume from a checkpoint.

    attempt --> a rank is lost --> revoke, shrink --> plan for so many ranks --> attempt, resumed --> ...

Open MPI with ULFM (User-Level Failure Mitigation; Bland et al., 2013) reports a lost rank to those that talk
to it, and lets them end all communication of the others (revoke) and make a communicator of those that are
left (shrink). What a lost rank held is in the checkpoint. Other MPIs end the whole job.

A rank that is stopped, but there, is not lost: that is a stall, which the watchdog ends.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, runtime_checkable

from .errors import EnvironmentMismatch, ExitCode, RuntimeFailure, UserError, message_of, printable
from .transport.api import Transport

Attempt = Callable[[Path, bool, Transport], int]
"""A run, as one rank of it: with this bundle, resumed or not, on this transport -> its exit code."""

Replan = Callable[[Path, int], Path]
"""(bundle, number of ranks) -> a bundle of the same program for so many ranks; one rank calls it."""


@runtime_checkable
class Shrinking(Protocol):
    """A transport that can go on without some of its ranks."""

    @property
    def can_shrink(self) -> bool:
        """Whether this job was started such that it outlives a rank."""
        ...

    def shrink(self) -> Transport:
        """The transport of the ranks that are left. Each of them calls this."""
        ...


def check_elastic(transport: Transport) -> None:
    """Raises EnvironmentMismatch if a lost rank is the end of the job."""
    if not isinstance(transport, Shrinking) or not transport.can_shrink:
        raise EnvironmentMismatch(
            "--elastic needs the mpi transport of Open MPI with ULFM: start it with "
            "`mpirun --with-ft ulfm ...`, as `moec run -n N --elastic` does; "
            f"this is {transport.name}, {transport.library}"
        )


def outlive(attempt: Attempt, bundle: Path, transport: Transport, replan: Replan, patience_s: float) -> int:
    """Carry `attempt` through, whatever ranks are lost meanwhile. `bundle` is that of all ranks.

    Survivors that do not find together within `patience_s` end the job with 86.
    """
    current, resume = bundle, False
    while True:
        try:
            return attempt(current, resume, transport)
        except RuntimeFailure as failure:
            if failure.exit_code != ExitCode.LOST_PEER:
                raise
            lost = failure
        assert isinstance(transport, Shrinking)
        before = transport.world
        with _ends_after(patience_s, transport):
            transport = transport.shrink()
            if transport.rank == 0:
                _say(before, transport.world, lost)
            current, resume = _agreed(transport, replan, bundle), True


def _agreed(transport: Transport, replan: Replan, bundle: Path) -> Path:
    """The bundle for the ranks that are left, which rank 0 makes; all raise if it cannot."""
    answer = b""
    if transport.rank == 0:
        try:
            answer = b"+" + os.fsencode(replan(bundle, transport.world))
        except Exception as error:
            answer = b"-" + message_of(error).encode()
    answer = transport.exchange(answer)[0]
    if answer[:1] != b"+":
        raise UserError(f"no plan for {transport.world} ranks: {answer[1:].decode(errors='replace')}")
    return Path(os.fsdecode(answer[1:]))


@contextmanager
def _ends_after(patience_s: float, transport: Transport) -> Iterator[None]:
    timer = threading.Timer(patience_s, transport.abort, (int(ExitCode.HANG),))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(before: int, left: int, lost: RuntimeFailure) -> None:
    text = f"{lost}\nmoec: warning: going on with {left} of {before} ranks, from the newest checkpoint"
    sys.stderr.write(f"moec: warning: {printable(text)}\n")
    sys.stderr.flush()
