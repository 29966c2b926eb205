"""The executor: runs programs instruction by instruction, on one transport.

Programs are compiled to flat lists of calls with numbered values first. A value is let go at its last use,
and values handed to another program belong to it from then on, so memory holds what the rest of the program
needs and no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .abi.instructions import COLLECTIVE_STARTS, COPY_STARTS, FACTORIES, INSTRUCTIONS, MEMBER
from .abi.program import Argument, Instruction, Program, map_refs, refs, uses
from .errors import InternalError
from .host_memory import HostMemory
from .transport.api import Group, Handle

Around = Callable[[str, Instruction, Callable[..., Any]], Callable[..., Any]]
"""Program, instruction and what carries it out -> what does so instead."""


class ExecutionError(InternalError):
    """An instruction failed. Carries the operation and the line of the `.moe` file it is for."""

    def __init__(self, program: str, instruction: Instruction, cause: BaseException) -> None:
        super().__init__(
            f"{type(cause).__name__}: {cause}",
            operation=f"{program}: %{instruction.name} = {instruction.op}",
            origin=str(instruction.place) if instruction.place else "",
        )
        self.exit_code = getattr(cause, "exit_code", self.exit_code)


@dataclass(frozen=True, slots=True)
class _Hole:
    """A value's number, inside a nested argument."""

    slot: int


@dataclass(frozen=True, slots=True)
class _Call:
    """One instruction, ready to run: `arguments` with holes for values at `direct` and `nested` positions.

    `keywords` have holes under the names in `named`.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    direct: tuple[tuple[int, int], ...]  # (position, slot)
    nested: tuple[int, ...]  # positions
    named: tuple[str, ...]
    result: int | None  # None where nothing reads it
    frees: tuple[int, ...]
    instruction: Instruction


@dataclass(frozen=True, slots=True)
class _Code:
    name: str
    calls: tuple[_Call, ...]
    inputs: int
    unused: tuple[int, ...]  # slots of inputs that nothing reads
    slots: int
    outputs: tuple[Any, ...]


class Position:
    """Where the executor is, for threads that watch it; a failure leaves it where it happened.

    `stack` has a (program, call) for every program that runs, outermost first. `done` counts instructions, so
    that two looks tell whether there was progress. `waited_s` adds up the time in the waits of collectives.
    """

    __slots__ = ("done", "stack", "waited_s")

    def __init__(self) -> None:
        self.stack: list[list[Any]] = []
        self.done = 0
        self.waited_s = 0.0

    def instructions(self) -> list[tuple[str, Instruction]]:
        """The programs that run and the instruction of each, outermost first, as of now."""
        return [(program, call.instruction) for program, call in list(self.stack) if call is not None]


class Executor:
    """Runs the programs of a bundle. `groups` are this rank's communicators by axis."""

    def __init__(
        self, programs: Mapping[str, Program], groups: Mapping[str, Group], device: torch.device
    ) -> None:
        self.groups, self.device = groups, device
        self.position = Position()
        self.host = HostMemory(device)
        self.code = {name: self._compile(program) for name, program in programs.items()}

    def run(self, program: str, arguments: list[Any]) -> tuple[Any, ...]:
        """Run a program; `arguments` is emptied, so that values can be let go while it runs."""
        code = self.code[program]
        if len(arguments) != code.inputs:
            raise InternalError(f"{program} takes {code.inputs} values, not {len(arguments)}")
        frame: list[Any] = [*arguments, *[None] * (code.slots - code.inputs)]
        arguments.clear()
        for slot in code.unused:
            frame[slot] = None
        at = self.position
        here: list[Any] = [program, None]
        at.stack.append(here)
        for call in code.calls:
            here[1] = call
            at.done += 1
            filled = list(call.arguments)
            for position, slot in call.direct:
                filled[position] = frame[slot]
            for position in call.nested:
                filled[position] = _fill(call.arguments[position], frame)
            keywords = call.keywords
            if call.named:
                keywords = keywords | {name: _fill(keywords[name], frame) for name in call.named}
            for slot in call.frees:
                frame[slot] = None
            try:
                result = call.function(*filled, **keywords)
            except ExecutionError:
                raise
            except Exception as cause:
                raise ExecutionError(program, call.instruction, cause) from cause
            if call.result is not None:
                frame[call.result] = result
            del result
        at.stack.pop()
        return tuple(_fill(output, frame) for output in code.outputs)

    def observe(self, around: Around) -> Callable[[], None]:
        """Put `around(program, instruction, function)` in the place of what carries out every instruction.

        Returns what undoes it. What is not observed costs nothing.
        """
        before = dict(self.code)
        for name, code in before.items():
            calls = tuple(
                replace(c, function=around(code.name, c.instruction, c.function)) for c in code.calls
            )
            self.code[name] = replace(code, calls=calls)
        return lambda: self.code.update(before)

    def interpose(self, op: str, around: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Put `around(function)` in the place of what carries out `op`, everywhere: for faults on purpose.

        What is not interposed costs nothing.
        """
        for name, code in self.code.items():
            calls = tuple(
                replace(c, function=around(c.function)) if c.instruction.op == op else c for c in code.calls
            )
            self.code[name] = replace(code, calls=calls)

    def _compile(self, program: Program) -> _Code:
        slots = {name: i for i, name in enumerate(program.inputs)}
        for instruction in program.instructions:
            slots[instruction.name] = len(slots)
        last, read = _last_uses(program)
        calls = tuple(
            self._call(i, slots, slots[i.name] if i.name in read else None, last)
            for i in program.instructions
        )
        outputs = tuple(_template(output, slots) for output in program.outputs)
        unused = tuple(slots[name] for name in program.inputs if name not in read)
        return _Code(program.name, calls, len(program.inputs), unused, len(slots), outputs)

    def _call(
        self, instruction: Instruction, slots: dict[str, int], result: int | None, last: dict[str, set[str]]
    ) -> _Call:
        arguments = tuple(_template(a, slots) for a in instruction.arguments)
        keywords = {key: _template(a, slots) for key, a in instruction.keywords}
        if instruction.op in FACTORIES:
            keywords["device"] = self.device
        return _Call(
            function=self._function(instruction),
            arguments=arguments,
            keywords=keywords,
            direct=tuple((i, a.slot) for i, a in enumerate(arguments) if isinstance(a, _Hole)),
            nested=tuple(i for i, a in enumerate(arguments) if isinstance(a, tuple)),
            named=tuple(key for key, a in instruction.keywords if any(refs(a))),
            result=result,
            frees=tuple(slots[name] for name in last.get(instruction.name, ())),
            instruction=instruction,
        )

    def _function(self, instruction: Instruction) -> Callable[..., Any]:
        if instruction.op == "moec.call":
            return self.run
        if instruction.op == "moec.wait":
            return self._wait
        if instruction.op in COLLECTIVE_STARTS:
            return self._collective(instruction)
        if instruction.op in COPY_STARTS:
            return {"moec.offload_start": self.host.offload, "moec.load_start": self.host.load}[
                instruction.op
            ]
        if instruction.op == MEMBER:
            place = self.groups[instruction.arguments[-1]].index
            return lambda like, _: torch.full((), place, dtype=torch.int64, device=like.device)
        return INSTRUCTIONS[instruction.op]

    def _wait(self, handle: Any) -> Tensor:
        start_s = time.perf_counter()
        result: Tensor = handle.wait()
        self.position.waited_s += time.perf_counter() - start_s
        return result

    def _collective(self, instruction: Instruction) -> Callable[..., Any]:
        axis = instruction.arguments[-1]
        group = self.groups[axis]
        match instruction.op:
            case "moec.all_reduce_start":
                return lambda x, _: group.all_reduce(x)
            case "moec.shard_gather_start":
                return lambda shard, ranks, _: group.all_gather(shard)
            case "moec.reduce_scatter_start":
                return lambda full, ranks, _: group.reduce_scatter(full)
            case _:
                return lambda x, send, receive, rows, _: _exchange(group, x, send, receive, rows)


def _exchange(group: Group, x: Tensor, send: Tensor, receive: Tensor, rows: int) -> Handle:
    """The rows of `x` that are sent come first; what arrives is filled up with zeros to `rows`."""
    outgoing, incoming = send.tolist(), receive.tolist()
    missing = rows - sum(incoming)
    if missing < 0:
        raise ValueError(f"all_to_all: {sum(incoming)} rows arrive where {rows} have room")
    stays = x.dim() > 0 and 0 <= sum(outgoing) < x.shape[0]
    handle = group.all_to_all(x[: sum(outgoing)] if stays else x, outgoing, incoming)
    return _FilledUp(handle, missing) if missing else handle


@dataclass(frozen=True, slots=True)
class _FilledUp:
    """A collective whose result gets `missing` rows of zeros behind it."""

    handle: Handle
    missing: int

    def wait(self) -> Tensor:
        """Block until it is done."""
        arrived = self.handle.wait()
        return torch.cat([arrived, arrived.new_zeros((self.missing, *arrived.shape[1:]))])


def _last_uses(program: Program) -> tuple[dict[str, set[str]], set[str]]:
    """Instruction name -> the values whose last use it is, and all values that are read.

    Returned values have none.
    """
    returned = {name for output in program.outputs for name in refs(output)}
    seen, last = set(returned), dict[str, set[str]]()
    for instruction in reversed(program.instructions):
        ends = uses(instruction) - seen
        seen |= ends
        if ends:
            last[instruction.name] = ends
    return last, seen


def _fill(template: Any, frame: Sequence[Any]) -> Any:
    """What a template stands for: values for holes, lists for tuples."""
    if isinstance(template, _Hole):
        return frame[template.slot]
    if isinstance(template, tuple):
        return [_fill(part, frame) for part in template]
    return template


def _template(argument: Argument, slots: Mapping[str, int]) -> Any:
    """An argument with holes for its values; what has none is as torch takes it, with lists for tuples."""
    if not any(refs(argument)):
        return _fill(argument, ())
    return map_refs(argument, lambda name: _Hole(slots[name]))
