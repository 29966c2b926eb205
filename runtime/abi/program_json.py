"""Programs as JSON data, and back with every rule of the format checked.

An instruction is a list [name, op, arguments, keywords, type, place]; `place` counts in the list of places of
the file, so that a line of the `.moe` file stands there once. In arguments a value is {"%": name}, a dtype
{"dtype": "float32"}, an infinite number {"float": "-inf"}; everything else stands for itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any

import torch

from .codec import FormatError, check_legible, from_data, is_legible
from .instructions import COLLECTIVE_STARTS, DTYPE_ARGUMENTS, INSTRUCTIONS, MEMBER, SIGNATURES
from .mesh import AXES
from .program import Argument, Instruction, Place, Program, Ref, uses

_DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float32, torch.float64, torch.bfloat16, torch.float16,
        torch.int64, torch.int32, torch.uint8, torch.bool,
    )
}  # fmt: skip

_MAX_INSTRUCTIONS = 4_000_000
_MAX_WORK = 1_000_000_000  # instructions of one run of a program


def programs_to_data(programs: Mapping[str, Program]) -> Any:
    """All programs of a bundle."""
    places: dict[Place, int] = {}
    listed = [_program_to_data(program, places) for program in programs.values()]
    return {"places": [_place_to_data(place) for place in places], "programs": listed}


def programs_from_data(data: Any, where: str) -> dict[str, Program]:
    """Programs by name, checked. Raises FormatError."""
    if not isinstance(data, dict) or data.keys() != {"places", "programs"}:
        raise FormatError(f"{where}: expected an object with places and programs")
    check_legible(data["places"], f"{where}.places")
    places = from_data(tuple[Place, ...], data["places"], f"{where}.places")
    programs: dict[str, Program] = {}
    for i, entry in enumerate(_list(data["programs"], f"{where}.programs")):
        program = _program_from_data(entry, places, f"{where}.programs[{i}]")
        if program.name in programs:
            raise FormatError(f"{where}: two programs are named {program.name}")
        programs[program.name] = program
    check_programs(programs, where)
    return programs


def check_programs(programs: Mapping[str, Program], where: str) -> None:
    """Values are made once, before they are used; calls are of known programs, with their values, and end."""
    if sum(len(p.instructions) for p in programs.values()) > _MAX_INSTRUCTIONS:
        raise FormatError(f"{where}: more than {_MAX_INSTRUCTIONS} instructions")
    calls = {name: _check_program(program, programs, where) for name, program in programs.items()}
    _check_work(programs, _in_order(calls, where), where)


def _check_program(program: Program, programs: Mapping[str, Program], where: str) -> set[str]:
    """Returns the programs it calls."""
    known, called = set(program.inputs), set[str]()
    if len(known) != len(program.inputs):
        raise FormatError(f"{where}: {program.name}: two inputs of one name")
    ports = len(program.inputs), len(program.outputs)
    if ports != (len(program.input_labels), len(program.output_labels)):
        raise FormatError(f"{where}: {program.name}: labels do not match inputs and outputs")
    for instruction in program.instructions:
        at = f"{where}: {program.name}: %{instruction.name}"
        if missing := uses(instruction) - known:
            raise FormatError(f"{at} uses %{sorted(missing)[0]} before it is made")
        if instruction.name in known:
            raise FormatError(f"{at} is made twice")
        if instruction.op == "moec.call":
            called.add(_check_call(instruction, programs, at))
        if instruction.op in COLLECTIVE_STARTS or instruction.op == MEMBER:
            _check_collective(instruction, at)
        else:
            _check_arguments(instruction, at)
        known.add(instruction.name)
    final = Instruction("return", "", program.outputs)
    if missing := uses(final) - known:
        raise FormatError(f"{where}: {program.name} returns %{sorted(missing)[0]}, which it never makes")
    return called


def _check_call(instruction: Instruction, programs: Mapping[str, Program], at: str) -> str:
    match instruction.arguments:
        case (str(callee), tuple(values)) if callee in programs:
            if len(values) != len(programs[callee].inputs):
                raise FormatError(
                    f"{at} gives {callee} {len(values)} values, not {len(programs[callee].inputs)}"
                )
            return callee
    raise FormatError(f"{at} calls a program that does not exist")


def _check_collective(instruction: Instruction, at: str) -> None:
    """Transports are asked for the axes of all collectives before anything runs."""
    wanted = len(SIGNATURES[instruction.op].parameters)
    if len(instruction.arguments) != wanted or instruction.keywords:
        raise FormatError(f"{at} takes {wanted} arguments, not {len(instruction.arguments)}")
    if instruction.arguments[-1] not in AXES:
        raise FormatError(f"{at} names no axis of the mesh: {str(instruction.arguments[-1])[:60]!r}")


def _check_arguments(instruction: Instruction, at: str) -> None:
    """How many, by which names, and that dtypes are some; what others are, the instruction finds out."""
    try:
        bound = SIGNATURES[instruction.op].bind(*instruction.arguments, **dict(instruction.keywords))
    except TypeError as error:
        raise FormatError(f"{at} = {instruction.op}: {error}") from error
    for name in sorted(DTYPE_ARGUMENTS[instruction.op] & bound.arguments.keys()):
        if not isinstance(bound.arguments[name], torch.dtype | None):
            raise FormatError(f"{at} = {instruction.op}: {name!r} is no dtype")


def _in_order(calls: Mapping[str, set[str]], where: str) -> list[str]:
    """The programs, each after those that it calls."""
    try:
        return list(TopologicalSorter(calls).static_order())
    except CycleError as error:
        ring = " -> ".join(error.args[1])
        raise FormatError(f"{where}: programs call each other in a ring: {ring}") from error


def _check_work(programs: Mapping[str, Program], order: list[str], where: str) -> None:
    """A few programs that call each other twice come to more than any machine ends."""
    work: dict[str, int] = {}
    for name in order:
        called = (str(i.arguments[0]) for i in programs[name].instructions if i.op == "moec.call")
        work[name] = len(programs[name].instructions) + sum(work[callee] for callee in called)
        if work[name] > _MAX_WORK:
            raise FormatError(f"{where}: {name} comes to more than {_MAX_WORK} instructions, calls included")


def _place_to_data(place: Place) -> Any:
    """A line may hold any character; what a reader would not print is a question mark."""
    return {"file": _legible(place.file), "line": place.line, "text": _legible(place.text)}


def _legible(text: str) -> str:
    return text if is_legible(text) else "".join(c if is_legible(c) else "?" for c in text)


def _program_to_data(program: Program, places: dict[Place, int]) -> Any:
    return {
        "name": program.name,
        "inputs": list(program.inputs),
        "input_labels": list(program.input_labels),
        "outputs": _to_data(program.outputs),
        "output_labels": list(program.output_labels),
        "instructions": [
            [
                i.name,
                i.op,
                _to_data(i.arguments),
                {key: _to_data(a) for key, a in i.keywords},
                i.type,
                None if i.place is None else places.setdefault(i.place, len(places)),
            ]
            for i in program.instructions
        ],
    }


def _program_from_data(data: Any, places: tuple[Place, ...], where: str) -> Program:
    keys = {"name", "inputs", "input_labels", "outputs", "output_labels", "instructions"}
    if not isinstance(data, dict) or data.keys() != keys:
        raise FormatError(f"{where}: expected an object with {sorted(keys)}")
    return Program(
        name=_text(data["name"], where),
        inputs=tuple(_text(name, where) for name in _list(data["inputs"], where)),
        instructions=tuple(_instruction(i, places, where) for i in _list(data["instructions"], where)),
        outputs=tuple(_from_data(v, where) for v in _list(data["outputs"], where)),
        input_labels=tuple(_text(name, where) for name in _list(data["input_labels"], where)),
        output_labels=tuple(_text(name, where) for name in _list(data["output_labels"], where)),
    )


def _instruction(data: Any, places: tuple[Place, ...], where: str) -> Instruction:
    match data:
        case [str(name), str(op), list(arguments), dict(keywords), str(kind), None | int() as place]:
            if op not in INSTRUCTIONS:
                raise FormatError(f"{where}: {op!r} is not in the instruction set")
            if place is not None and not 0 <= place < len(places):
                raise FormatError(f"{where}: %{name} has no place {place}")
            return Instruction(
                name=_text(name, where),
                op=op,
                arguments=tuple(_from_data(a, where) for a in arguments),
                keywords=tuple((_text(key, where), _from_data(a, where)) for key, a in keywords.items()),
                type=kind and _text(kind, where),
                place=None if place is None else places[place],
            )
    raise FormatError(f"{where}: an instruction is [name, op, arguments, keywords, type, place]")


def _to_data(argument: Argument) -> Any:
    match argument:
        case Ref(name):
            return {"%": name}
        case torch.dtype():
            return {"dtype": str(argument).removeprefix("torch.")}
        case tuple():
            return [_to_data(part) for part in argument]
        case float() if not math.isfinite(argument):
            return {"float": str(argument)}
    return argument


def _from_data(data: Any, where: str) -> Argument:
    match data:
        case None | bool() | int() | float() | str():
            return data
        case list():
            return tuple(_from_data(part, where) for part in data)
        case {"%": str(name), **rest} if not rest:
            return Ref(_text(name, where))
        case {"dtype": str(name), **rest} if not rest and name in _DTYPES:
            return _DTYPES[name]
        case {"float": "inf" | "-inf" | "nan" as text, **rest} if not rest:
            return float(text)
    raise FormatError(f"{where}: {str(data)[:60]!r} is no argument")


def _list(data: Any, where: str) -> list[Any]:
    if not isinstance(data, list):
        raise FormatError(f"{where}: expected a list")
    return data


def _text(data: Any, where: str) -> str:
    if not isinstance(data, str) or not 0 < len(data) <= 256 or not data.isprintable():
        raise FormatError(f"{where}: expected a name")
    return data
