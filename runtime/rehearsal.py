"""A step without numbers: what it would hold at once, found before anything is allocated.

Programs come from bundles, and bundles from anyone. The programs are run over shapes, as far as these follow
from the manifest; what depends on data, such as how many rows arrive, is not known, and counts nothing. So
the peak that is found is one that the step reaches or exceeds, and what does not fit into the machine is
refused before it is tried.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .abi.buffers import trained_only
from .abi.bundle import STATE_PARTS, STEP_INPUTS, Bundle, with_documents
from .abi.dtypes import DTYPES
from .abi.manifest import Manifest
from .abi.program import Instruction, Program, refs, uses
from .errors import EnvironmentMismatch
from .shapes import CallResults, empty, likeness, memory_of, result_of, tensors


class DoesNotFit(EnvironmentMismatch):
    """A step needs more memory than the machine has."""

    on_every_rank = True


@dataclass(frozen=True)
class Peak:
    """Bytes that a step holds at once at least, with the state, and the instruction where it is most."""

    peak_bytes: int
    program: str = ""
    instruction: Instruction | None = None

    def __str__(self) -> str:
        if self.instruction is None:
            return "the state alone"
        place = f" ({self.instruction.place})" if self.instruction.place else ""
        return f"{self.program}: %{self.instruction.name} = {self.instruction.op}{place}"


def check_memory(bundle: Bundle, device: torch.device) -> None:
    """Raises DoesNotFit where a step of the bundle cannot fit into the memory of this machine or device."""
    limit_bytes = memory_bytes(device)
    peak = rehearse(bundle, limit_bytes)
    if peak.peak_bytes > limit_bytes:
        raise DoesNotFit(
            f"a step of this bundle holds {_in_words(peak.peak_bytes)} or more at once on every rank, and "
            f"the {device.type} here has {_in_words(limit_bytes)}; it is exceeded at {peak}"
        )


def rehearse(bundle: Bundle, limit_bytes: int) -> Peak:
    """What a step holds at once. It ends early where that exceeds `limit_bytes`."""
    rehearsal = _Rehearsal(bundle.programs, limit_bytes)
    rehearsal.begin(_inputs(bundle.manifest))
    return rehearsal.peak


def memory_bytes(device: torch.device) -> int:
    """The memory that a process can have at most: of the device, or of the machine, swap space included."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[1])
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _swap_bytes()
    limit = _group_limit_bytes()
    return min(total, limit) if limit else total


def _swap_bytes() -> int:
    with suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("SwapTotal:"):
                return int(line.split()[1]) * 1024
    return 0


def _group_limit_bytes() -> int | None:
    """Of the control group of a container, in its second version."""
    with suppress(OSError, ValueError):
        return int(Path("/sys/fs/cgroup/memory.max").read_text())  # "max" is no number
    return None


def _inputs(manifest: Manifest) -> list[Any]:
    """What a step takes, without its numbers."""
    training = manifest.training
    batch = (training.micro_batches, manifest.sequences, training.sequence)
    named = {
        "tokens": empty(batch, torch.int64),
        "targets": empty(batch, torch.int64),
        "sequences": empty(batch[:1], torch.int64),
        "first": empty(batch[:1], torch.int64),
        "lr": 0.0,
        "update": empty((), torch.float32),
        "loss_limit": 0.0,
        "documents": empty(batch, torch.int64),
    }
    names = with_documents(STEP_INPUTS, training.documents == "separate")
    return [*(named[name] for name in names), *_states(manifest)]


def _states(manifest: Manifest) -> list[Tensor]:
    states = manifest.states()
    trained, moments = trained_only(states), DTYPES[manifest.moments]
    dtype = getattr(torch, manifest.dtype)
    dtypes = (dtype, dtype, moments, moments)
    return [
        empty((buffer.shard_numel,), dtypes[i])
        for i in range(len(STATE_PARTS))
        for buffer in (trained if i else states).values()
    ]


@dataclass
class _Memory:
    """Which storages values lie in, how many values each, and how many bytes that is."""

    live_bytes: int = 0
    highest_bytes: int = 0
    _holders: dict[int, int] = field(default_factory=dict)

    def hold(self, value: Any) -> None:
        """A value is there, and one more uses its memory."""
        for tensor in tensors(value):
            storage = tensor.untyped_storage()
            key = memory_of(tensor)
            self._holders[key] = self._holders.get(key, 0) + 1
            if self._holders[key] == 1:
                self.live_bytes += storage.nbytes()
        self.highest_bytes = max(self.highest_bytes, self.live_bytes)

    def let_go(self, value: Any) -> None:
        """It is used no more."""
        for tensor in tensors(value):
            storage = tensor.untyped_storage()
            key = memory_of(tensor)
            self._holders[key] -= 1
            if not self._holders[key]:
                del self._holders[key]
                self.live_bytes -= storage.nbytes()


class _LimitExceededError(Exception):
    """There is no need to go on."""


class _Rehearsal:
    """Runs programs over shapes. A program that was called with like values before is not run again."""

    def __init__(self, programs: Mapping[str, Program], limit_bytes: int) -> None:
        self._programs, self._limit_bytes = programs, limit_bytes
        self._memory, self.peak = _Memory(), Peak(0)
        self._called: dict[Any, tuple[int, CallResults]] = {}
        self._last = {name: _last_uses(program) for name, program in programs.items()}
        self._unread = {name: _unread(program) for name, program in programs.items()}

    def begin(self, inputs: list[Any]) -> None:
        """Run `step`."""
        state_bytes = sum(tensor.nbytes for tensor in tensors(inputs))
        self.peak = Peak(state_bytes)
        with suppress(_LimitExceededError):
            if state_bytes <= self._limit_bytes:
                self._run(self._programs["step"], inputs)

    def _run(self, program: Program, arguments: Sequence[Any]) -> tuple[Any, ...]:
        frame = dict(zip(program.inputs, arguments, strict=True))
        last = self._last[program.name]
        for value in frame.values():
            self._memory.hold(value)
        self._end(frame, self._unread[program.name])
        for instruction in program.instructions:
            self._do(program, instruction, frame, last.get(instruction.name, ()))
        results = tuple(_filled(output, frame) for output in program.outputs)
        for value in frame.values():
            self._memory.let_go(value)
        return results

    def _do(
        self, program: Program, instruction: Instruction, frame: dict[str, Any], ends: Sequence[str]
    ) -> None:
        called = instruction.op == "moec.call"
        arguments = [_filled(argument, frame) for argument in instruction.arguments]
        if called:  # values that are not used again belong to the program
            self._end(frame, [name for name in ends if name in frame])
            result: Any = self._call(*arguments)
        else:
            keywords = {name: _filled(value, frame) for name, value in instruction.keywords}
            result = result_of(instruction, arguments, keywords)
        frame[instruction.name] = result
        self._memory.hold(result)
        self._note(program, instruction)
        self._end(frame, [name for name in ends if name in frame])

    def _end(self, frame: dict[str, Any], names: Sequence[str]) -> None:
        for name in names:
            self._memory.let_go(frame.pop(name))

    def _note(self, program: Program, instruction: Instruction) -> None:
        if self._memory.highest_bytes > self.peak.peak_bytes:
            self.peak = Peak(self._memory.highest_bytes, program.name, instruction)
        if self.peak.peak_bytes > self._limit_bytes:
            raise _LimitExceededError

    def _call(self, name: str, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Calls with like values come to like results, at like cost above what is held when they start."""
        memory, key = self._memory, (name, likeness(arguments))
        before, memory.highest_bytes, highest = memory.live_bytes, memory.live_bytes, memory.highest_bytes
        if key in self._called:
            results = self._called[key][1].on(arguments)
        else:
            results = self._run(self._programs[name], arguments)
            self._called[key] = memory.highest_bytes - before, CallResults(arguments, results)
        memory.highest_bytes = max(highest, before + self._called[key][0])
        return results


def _filled(argument: Any, frame: Mapping[str, Any]) -> Any:
    if isinstance(argument, tuple):
        return [_filled(part, frame) for part in argument]
    names = list(refs(argument))
    return frame[names[0]] if names else argument


def _last_uses(program: Program) -> dict[str, list[str]]:
    """Instruction -> the values that nothing needs after it; results of the program are needed to the end."""
    needed = {name for output in program.outputs for name in refs(output)}
    last: dict[str, list[str]] = {}
    for instruction in reversed(program.instructions):
        ends = uses(instruction) - needed
        needed |= ends
        if instruction.name not in needed:
            ends = {*ends, instruction.name}
        last[instruction.name] = sorted(ends)
    return last


def _unread(program: Program) -> list[str]:
    """Inputs that nothing needs."""
    read = set[str]().union(*map(uses, program.instructions), refs(program.outputs))
    return [name for name in program.inputs if name not in read]


def _in_words(size: float) -> str:
    return f"{size / 2**30:,.4g} GiB"
