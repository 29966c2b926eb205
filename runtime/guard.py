"""How a rank ends: `run_rank` makes a failure on one rank the end of the job, with one message and one code.

A rank that merely raised would leave the others waiting for it for ever, whatever the MPI. What a rank cannot
notice by itself, such as a peer that leaves with code 0 or hangs, is a watchdog's business.
"""

from __future__ import annotations

import hashlib
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from moec.runtime.errors import EnvironmentMismatch, ExitCode, message_of, printable
from moec.runtime.launch import Launch, current_job, discover
from moec.runtime.transport.api import Transport
from moec.runtime.transport.factory import connect_mpi

PATIENCE_S = 1.0
"""How long a failing rank waits for the others to fail as well, so that one message can speak for all."""

FORWARDING_S = 0.3
"""How long launchers are given to pass a message on: they may drop it when the job ends or a rank leaves."""

INTERRUPTED = 130  # as shells report SIGINT


def run_rank(main: Callable[[], int]) -> int:
    """Run `main` as this rank's program and return the exit code for `sys.exit`.

    If `main` raises, the error is printed once for the job, naming the rank (and operation and `.moe` line,
    if it carries them), and the job is ended with the error's exit code. A code other than 0 that `main`
    returns, or gives to `sys.exit`, ends the job too, unless all ranks return with one. So does
    `sys.exit(0)`.
    """
    try:
        failure = _Failure(main(), "")
    except SystemExit as request:
        failure = _requested(request)
    except BaseException as error:
        failure = _Failure(exit_code_of(error), describe(error), getattr(error, "on_every_rank", False))
    return failure.code and _end(failure)


def exit_code_of(error: BaseException) -> int:
    """The error's own `exit_code`, or 74 for the system's errors, 130 for an interrupt, 70 for a bug."""
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        return int(code)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return ExitCode.INPUT_OUTPUT if isinstance(error, OSError) else ExitCode.INTERNAL


def describe(error: BaseException) -> str:
    """The message with operation and origin, or the whole traceback of what should never have been raised."""
    if isinstance(error, SystemExit):
        message = f"left with exit code {error.code or 0} before its work was done"
    elif exit_code_of(error) == ExitCode.INTERNAL:
        message = "".join(traceback.format_exception(error)).rstrip()
    else:
        message = message_of(error)
    for label, name in (("during", "operation"), ("from", "origin")):
        if detail := getattr(error, name, ""):
            message += f"\n  {label} {detail}"
    return printable(message)


@dataclass(frozen=True)
class _Failure:
    """Why this rank ends: an exit code, and a message unless it has been said."""

    code: int
    message: str
    on_every_rank: bool = False

    def token(self) -> bytes:
        """The code, and a digest by which ranks find out that they failed alike; always 33 bytes."""
        return bytes([self.code & 0xFF]) + hashlib.sha256(self.message.encode()).digest()


def _requested(request: SystemExit) -> _Failure:
    if request.code in (None, 0):  # others wait for this rank, and it must not look like success
        return _Failure(ExitCode.INTERNAL, describe(request))
    if isinstance(request.code, int):
        return _Failure(request.code, "")
    return _Failure(ExitCode.USER, str(request.code))


def _end(failure: _Failure) -> int:
    """Say why, end the job, and return its exit code."""
    launch = _launch()
    joined = current_job.get()
    transport = joined or _join(launch)
    if transport is None or failure.on_every_rank:
        return _end_alone(failure, launch)
    tokens = transport.last_words(failure.token(), PATIENCE_S)
    if tokens is None:
        if failure.code == ExitCode.LOST_PEER:
            time.sleep(PATIENCE_S)  # the peer that we lost has more to say, and ends us when it has said it
        _say(failure.message or f"left with exit code {failure.code}", [transport.rank], transport.world)
        transport.abort(failure.code)
        return failure.code
    alike = [rank for rank, token in enumerate(tokens) if token == failure.token()]
    if failure.message and transport.rank == alike[0]:
        _say(failure.message, alike, transport.world)
    transport.last_words(failure.token(), PATIENCE_S)  # nobody ends the job before all have spoken
    if failure.message and joined and transport.world > 1:
        transport.abort(_verdict(tokens))  # collectives under way would keep MPI from finalizing
    return _verdict(tokens)


def _launch() -> Launch:
    try:
        return discover()
    except EnvironmentMismatch:  # this may be the failure that is being told
        return Launch(0, 1, 0, "single")


def _join(launch: Launch) -> Transport | None:
    """For a rank that fails before it has joined its job: join it, to be able to end it.

    The others may wait for this rank in MPI_Init, and MPICH's launcher does not mind a rank that leaves
    before.
    """
    if not launch.by_mpi:
        return None
    try:
        return connect_mpi(launch)
    except EnvironmentMismatch:
        return None


def _end_alone(failure: _Failure, launch: Launch) -> int:
    """The end of a rank that can join no job: its exit makes the launcher stop the others, as a rule.

    The failure is likely to be the same everywhere, so rank 0 speaks first. A rank that is still there after
    a while has something of its own to say.
    """
    world = launch.world or launch.rank + 1
    if failure.on_every_rank:
        ranks = [] if launch.rank else list(range(world))
    else:
        ranks = [launch.rank]
        time.sleep(PATIENCE_S if launch.rank else 0)
    if failure.message and ranks:
        _say(failure.message, ranks, world)
    return failure.code


def _verdict(tokens: list[bytes]) -> int:
    """One exit code for all: the first that tells of a cause, since a lost peer is a consequence."""
    codes = [token[0] for token in tokens]
    return next((code for code in codes if code not in (0, ExitCode.LOST_PEER)), codes[0])


def _say(message: str, ranks: list[int], world: int) -> None:
    sys.stdout.flush()
    # In one piece: the lines of ranks get mixed.
    sys.stderr.write(f"moec: error{_where(ranks, world)}: {message}\n")
    sys.stderr.flush()
    if world > 1:
        time.sleep(FORWARDING_S)


def _where(ranks: list[int], world: int) -> str:
    if len(ranks) == world:
        return f" on all {world} ranks" if world > 1 else ""
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f" on rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks[:8]))}{more}"
