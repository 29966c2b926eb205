"""The ways a run can fail, each with the exit code its process ends with.

Launchers rewrite exit codes (MPICH can report 0 for a lost rank), so a run also records its verdict in a
file; the codes are the same in both. This module is a leaf: it imports nothing of ours.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What the exit code of a rank, and so of the job, means."""

    DONE = 0
    USER = 1  # the user's input: a wrong option, an unusable file
    INTERNAL = 70  # a bug of ours
    OUT_OF_MEMORY = 71  # the host or the device has no more
    INPUT_OUTPUT = 74  # reading or writing failed: disk full, no permission
    STOPPED_EARLY = 75  # stopped on request and saved: put it into the queue again
    INTEGRITY = 76  # a file does not hold what its digest says
    ENVIRONMENT = 78  # wrong MPI, wrong world, missing library
    HANG = 86  # a collective stalled
    NUMERICAL = 87  # not-a-number or infinity where the policy is to stop
    LOST_PEER = 88  # another rank or the network went away


class RuntimeFailure(Exception):  # noqa: N818 (some failures are no errors)
    """Base of all failures that a run reports by name.

    `operation` names the collective or step operation under way, `origin` the `.moe` line it came from
    (`model.moe:12`); both are empty when there is none. `on_every_rank` promises that all ranks raise the
    same, so that one may speak for all where they cannot talk to each other.
    """

    exit_code: ExitCode = ExitCode.INTERNAL
    on_every_rank: ClassVar[bool] = False

    def __init__(self, message: str, *, operation: str = "", origin: str = "") -> None:
        super().__init__(message)
        self.operation = operation
        self.origin = origin


class UserError(RuntimeFailure):
    """The user asked for something that cannot be done."""

    exit_code = ExitCode.USER


class InternalError(RuntimeFailure):
    """An invariant of ours does not hold."""


class InputOutputError(RuntimeFailure):
    """Reading or writing failed for a reason outside the file's content."""

    exit_code = ExitCode.INPUT_OUTPUT


class IntegrityError(RuntimeFailure):
    """Content differs from its digest or its index."""

    exit_code = ExitCode.INTEGRITY


class EnvironmentMismatch(RuntimeFailure):
    """The process was started in a way that cannot work: foreign `mpirun`, wrong world, no MPI library."""

    exit_code = ExitCode.ENVIRONMENT


class ForeignLauncher(EnvironmentMismatch):
    """The ranks were started by the launcher of another MPI, and do not see each other."""

    on_every_rank = True


class NumericalError(RuntimeFailure):
    """A loss or a gradient is not finite."""

    exit_code = ExitCode.NUMERICAL


def message_of(error: BaseException) -> str:
    """What an error says; the system's own errors as `path: what is wrong`, without their number."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return printable(f"{where}{error.strerror}")
    return printable(str(error) or type(error).__name__)


def printable(text: str) -> str:
    """Without what would steer a terminal: names and contents of files come from anywhere."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "?" for letter in text)
