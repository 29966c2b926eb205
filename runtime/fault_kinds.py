"""The kinds of faults that can be made to happen, and what makes them happen in a run.

    raise            an exception, as a bug would raise it
    kill, stop       SIGKILL, SIGSTOP of this process
    segfault         a read of address 0
    exit0, _exit0    sys.exit(0); os._exit(0), which runs no handlers
    oom              the process may have no more memory (RLIMIT_AS), and the first all-reduce asks for some
    disk_full        files may not grow (RLIMIT_FSIZE) until the next step
    gil              a call that holds the interpreter's lock for ever
    sleep            `seconds` of sleep: a slow rank
    skip_collective  the first all-reduce of the step is left out
    nan, inf         the first number of a gradient shard: of the buffer `at`, or of the first buffer
    spike            the parameters become `factor` times what they are

Those of a collective or a gradient happen inside the step that they are given; the others before it.
"""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import torch

from moec.runtime.executor import Executor
from moec.runtime.faults import Fault, Injector, arm, parse, written
from moec.runtime.loop import Companion
from moec.runtime.state import TrainState
from moec.runtime.training import StepResult

KINDS = (
    "raise", "kill", "stop", "segfault", "exit0", "_exit0", "oom", "disk_full", "gil", "sleep",
    "skip_collective", "nan", "inf", "spike",
)  # fmt: skip


class InjectedError(Exception):
    """What `raise` raises."""


class Faults(Companion):
    """Makes the faults of a run happen. Made before the set-up, so that points of it count, too."""

    def __init__(self, text: str, rank: int) -> None:
        self._injector = Injector(parse(text, KINDS), rank, self._strike)
        self._state: TrainState | None = None
        self._skip = self._starve = False
        self._bad: float | None = None
        self._at = ""
        self._file_limit: tuple[int, int] | None = None
        arm(self._injector)

    def reach(self, executor: Executor, state: TrainState) -> None:
        """The programs and the state that faults get at."""
        self._state = state
        executor.interpose("moec.all_reduce_start", self._around_sum)
        executor.interpose("moec.sum_of_squares", self._around_gradient)

    def before_step(self, step: int) -> None:
        """See `Companion`."""
        self._grow_again()
        self._injector.at_step(step)

    def after_step(self, result: StepResult) -> None:
        """See `Companion`: what was to happen in the step and had no occasion does not happen later."""
        self._skip, self._starve, self._bad = False, False, None

    def close(self) -> None:
        """See `Companion`."""
        self._grow_again()
        arm(None)

    def _strike(self, fault: Fault) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        sys.stderr.write(f"moec: fault on purpose on rank {self._injector.rank} at {now}: {fault}\n")
        sys.stderr.flush()
        match fault.kind:
            case "skip_collective":
                self._skip = True
            case "oom":
                self._starve = True
            case "nan" | "inf":
                self._bad, self._at = float(fault.kind), fault.at
            case "spike":
                self._scale(fault.factor)
            case "disk_full":
                self._stop_growth()
            case kind:
                _AT_ONCE[kind](fault)

    def _scale(self, factor: float) -> None:
        assert self._state is not None
        for shard in self._state.parameters.values():
            shard.mul_(factor)

    def _stop_growth(self) -> None:
        self._file_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, self._file_limit[1]))

    def _grow_again(self) -> None:
        if self._file_limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, self._file_limit)
            self._file_limit = None

    def _around_sum(self, start: Callable[..., Any]) -> Callable[..., Any]:
        def total(x: torch.Tensor, axis: str) -> Any:
            if self._starve:
                _run_out_of_memory()
            if not self._skip:
                return start(x, axis)
            self._skip = False
            return _Nothing(x)

        return total

    def _is_at(self, gradient: torch.Tensor) -> bool:
        """Whether the gradient is that of the buffer which the fault names."""
        assert self._state is not None
        named = self._state.gradients.get(self._at)
        return not self._at or (named is not None and named.data_ptr() == gradient.data_ptr())

    def _around_gradient(self, square: Callable[..., Any]) -> Callable[..., Any]:
        def spoilt(gradient: torch.Tensor) -> Any:
            if self._bad is not None and self._is_at(gradient):
                gradient[0], self._bad = self._bad, None
            return square(gradient)

        return spoilt


class _Nothing:
    """The handle of a collective that was never started."""

    def __init__(self, result: torch.Tensor) -> None:
        self._result = result

    def wait(self) -> torch.Tensor:
        """This rank's part, in the place of the sum."""
        return self._result


def injected(enabled: bool, rank: int) -> Faults | None:
    """The faults that `MOEC_FAULT` asks for. Raises UserError: see `faults.written`."""
    text = written(enabled)
    return Faults(text, rank) if text else None


def _raise(fault: Fault) -> None:
    raise InjectedError(str(fault))


def _exit(fault: Fault) -> None:
    sys.exit(0)


def _run_out_of_memory() -> None:
    """What has been taken stays; a quarter of a gigabyte more is refused."""
    pages = int(open("/proc/self/statm").read().split()[0])  # noqa: SIM115
    taken = pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20), resource.RLIM_INFINITY))
    torch.ones(256 << 20, dtype=torch.uint8)


_AT_ONCE: dict[str, Callable[[Fault], object]] = {
    "raise": _raise,
    "kill": lambda fault: os.kill(os.getpid(), signal.SIGKILL),
    "stop": lambda fault: os.kill(os.getpid(), signal.SIGSTOP),
    "segfault": lambda fault: ctypes.string_at(0),
    "exit0": _exit,
    "_exit0": lambda fault: os._exit(0),
    "gil": lambda fault: ctypes.PyDLL(None).sleep(math.ceil(1e9)),
    "sleep": lambda fault: time.sleep(fault.seconds),
}
