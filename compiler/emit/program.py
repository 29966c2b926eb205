"""torch.fx graphs -> programs of the instruction set."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from moec.compiler.errors import InternalCompilerError
from moec.compiler.graph import ORIGIN, VAL
from moec.dsl.spec import Origin
from moec.runtime.abi.instructions import UnknownInstructionError, name_of
from moec.runtime.abi.program import Argument, Instruction, Place, Program, Ref

_OF_THE_MACHINE = ("device", "layout", "pin_memory")
"""Keywords that say where a tensor lives: the executor's business."""


def to_program(
    name: str, graph: fx.Graph, input_labels: tuple[str, ...], output_labels: tuple[str, ...]
) -> Program:
    """A graph as a program. Labels are for people, one per placeholder and per returned value."""
    inputs = tuple(node.name for node in graph.nodes if node.op == "placeholder")
    (returned,) = graph.output_node().args
    assert isinstance(returned, list | tuple)
    if len(inputs) != len(input_labels) or len(returned) != len(output_labels):
        raise InternalCompilerError(f"{name}: labels do not match the ports of the graph")
    return Program(
        name=name,
        inputs=inputs,
        instructions=tuple(_instruction(node, name) for node in graph.nodes if node.op == "call_function"),
        outputs=tuple(_argument(value) for value in returned),
        input_labels=input_labels,
        output_labels=output_labels,
    )


def _instruction(node: fx.Node, program: str) -> Instruction:
    try:
        op = name_of(node.target)
    except UnknownInstructionError as error:
        raise InternalCompilerError(f"{program}: {error} is not in the instruction set") from error
    keywords = {key: _argument(a) for key, a in node.kwargs.items() if key not in _OF_THE_MACHINE}
    return Instruction(
        name=node.name,
        op=op,
        arguments=tuple(_argument(a) for a in node.args),
        keywords=tuple(keywords.items()),
        type=_type(node.meta.get(VAL)),
        place=_place(node.meta.get(ORIGIN)),
    )


def _argument(argument: Any) -> Argument:
    match argument:
        case fx.Node():
            return Ref(argument.name)
        case list() | tuple():
            return tuple(_argument(a) for a in argument)
        case None | bool() | int() | float() | str() | torch.dtype():
            return argument
        case _:
            raise InternalCompilerError(f"an argument of type {type(argument).__name__} cannot be emitted")


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} ({', '.join(map(str, value.shape))})"
    if isinstance(value, int | torch.SymInt):
        return "int"
    return ""


def _place(at: Origin | None) -> Place | None:
    return Place(at.file, at.line, at.text) if at is not None and at.line else None
