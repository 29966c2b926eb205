"""Programs: what a bundle holds and an executor runs. Straight lines of instructions over named values.

    %q = aten.mm.default(%x, %w)        float32 (256, 128)        # mixtral.moe:17

A program takes values by position, runs its instructions in order and returns values by position. There is no
control flow. Arguments are values, numbers, strings, dtypes, None and lists of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Ref:
    """A value by name."""

    name: str

    def __str__(self) -> str:
        return f"%{self.name}"


_NUMBERS_SHOWN = 4

Argument = Any
"""Ref | int | float | bool | str | None | torch.dtype | tuple[Argument, ...]"""


@dataclass(frozen=True)
class Place:
    """A line of the user's `.moe` file."""

    file: str
    line: int
    text: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Instruction:
    """`name = op(*arguments, **keywords)`. `type` is the dtype and shape of the result, for people."""

    name: str
    op: str
    arguments: tuple[Argument, ...]
    keywords: tuple[tuple[str, Argument], ...] = ()
    type: str = ""
    place: Place | None = None


@dataclass(frozen=True)
class Program:
    """A straight-line program. `labels` name its inputs and outputs for people: what each port is."""

    name: str
    inputs: tuple[str, ...]
    instructions: tuple[Instruction, ...]
    outputs: tuple[Argument, ...]
    input_labels: tuple[str, ...]
    output_labels: tuple[str, ...]


def refs(argument: Argument) -> Iterator[str]:
    """The names of the values in an argument."""
    if isinstance(argument, Ref):
        yield argument.name
    elif isinstance(argument, tuple):
        for part in argument:
            yield from refs(part)


def map_refs(argument: Argument, function: Callable[[str], Any]) -> Any:
    """The argument with every value replaced by function(name)."""
    if isinstance(argument, Ref):
        return function(argument.name)
    if isinstance(argument, tuple):
        return tuple(map_refs(part, function) for part in argument)
    return argument


def uses(instruction: Instruction) -> set[str]:
    """The names of the values an instruction reads."""
    found = set(refs(instruction.arguments))
    for _, argument in instruction.keywords:
        found.update(refs(argument))
    return found


def listing(program: Program) -> str:
    """A program as text, one instruction a line."""
    ports = ", ".join(
        f"%{name}: {label}" for name, label in zip(program.inputs, program.input_labels, strict=True)
    )
    lines = [f"program {program.name}({ports})"]
    for instruction in program.instructions:
        lines.append(_line(instruction))
    returned = ", ".join(
        f"{label} = {_text(value)}"
        for label, value in zip(program.output_labels, program.outputs, strict=True)
    )
    return "\n".join([*lines, f"    return {returned}"])


def list_text(parts: Sequence[Any], text: Callable[[Any], str]) -> str:
    """A list for people: of many numbers, as the frequencies of positions are, the first two."""
    if len(parts) > _NUMBERS_SHOWN and all(isinstance(part, float) for part in parts):
        return f"[{text(parts[0])}, {text(parts[1])}, ... {len(parts)} numbers]"
    return f"[{', '.join(map(text, parts))}]"


def _line(instruction: Instruction) -> str:
    arguments = [_text(a) for a in instruction.arguments]
    arguments += [f"{key}={_text(a)}" for key, a in instruction.keywords]
    text = f"    %{instruction.name} = {instruction.op}({', '.join(arguments)})"
    place = f"# {instruction.place}" if instruction.place else ""
    return f"{text:<90} {instruction.type:<28} {place}".rstrip()


def _text(argument: Argument) -> str:
    if isinstance(argument, tuple):
        return list_text(argument, _text)
    if isinstance(argument, torch.dtype):
        return str(argument).removeprefix("torch.")
    return str(argument) if isinstance(argument, Ref) else repr(argument)
