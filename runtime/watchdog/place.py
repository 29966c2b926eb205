"""Where a rank is, as one record: who it is, which step, and the instruction of every program that runs."""

from __future__ import annotations

from dataclasses import dataclass

from moec.runtime.abi.instructions import COLLECTIVE_STARTS
from moec.runtime.abi.program import Instruction, Ref
from moec.runtime.executor import Executor

from .processes import born, this_host


@dataclass(frozen=True)
class Frame:
    """An instruction of a program: `op` without its family, `axis` of a collective, `.moe` line."""

    program: str
    value: str
    op: str
    axis: str = ""
    place: str = ""

    def __str__(self) -> str:
        axis = f" over {self.axis}" if self.axis else ""
        place = f" ({self.place})" if self.place else ""
        return f"{self.program}: %{self.value} = {self.op}{axis}{place}"


@dataclass(frozen=True)
class Place:
    """Where a rank was at `time_s` (of the system's clock), since `since_s`.

    `born` tells its process from a later one of the same number. `section` is what the run is at: set-up,
    step or checkpoint; `step` counts from 0, -1 before the first; `done` instructions have begun. `stack`
    has the programs that run, outermost first. `left` says that the rank has ended in good order.
    """

    rank: int
    host: str
    pid: int
    born: int
    time_s: float
    since_s: float
    section: str
    step: int
    done: int
    stack: tuple[Frame, ...] = ()
    left: bool = False

    def __str__(self) -> str:
        at = "set-up" if self.step < 0 else f"step {self.step}"
        if self.section not in ("set-up", "step"):
            at = f"{self.section} after {at}"
        if not self.stack:
            return f"{at}, between programs"
        return f"{at}, " + " > ".join([frame.program for frame in self.stack[:-1]] + [str(self.stack[-1])])


def frames(executor: Executor) -> tuple[Frame, ...]:
    """Where an executor is now, asked from any thread: what changes meanwhile is from either moment."""
    return tuple(
        _frame(executor, program, instruction) for program, instruction in executor.position.instructions()
    )


def _frame(executor: Executor, program: str, instruction: Instruction) -> Frame:
    started, op = instruction, instruction.op.removeprefix("moec.")
    if instruction.op == "moec.wait":
        started = _started(executor, program, instruction) or instruction
        op = started.op.removeprefix("moec.").removesuffix("_start")
    axis = str(started.arguments[-1]) if started.op in COLLECTIVE_STARTS else ""
    place = instruction.place or started.place
    return Frame(program, instruction.name, op, axis, str(place) if place else "")


def _started(executor: Executor, program: str, wait: Instruction) -> Instruction | None:
    """The start half of a collective that is waited for, where this program has it."""
    (handle, *_) = wait.arguments
    calls = executor.code[program].calls
    found = (c.instruction for c in calls if isinstance(handle, Ref) and c.instruction.name == handle.name)
    return next(found, None)


def is_gone(place: Place) -> bool:
    """Whether the rank's process has ended, as far as this machine can see: False for other machines'."""
    return place.host == this_host() and born(place.pid) != place.born
