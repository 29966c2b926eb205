"""Graphs and plans as text: what `moec show` prints and goldens hold.

The same for the same spec on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from torch import Tensor, fx

from moec.dsl.written import memory_texts
from moec.runtime.abi.buffers import Buffer
from moec.runtime.abi.dtypes import DTYPES
from moec.runtime.abi.mesh import AXES
from moec.runtime.abi.program import list_text

from .graph import LAYOUT, VAL, Region, origin, parameter_path
from .numerics import Numerics
from .plan.plan import Plan


def dump_region(region: Region) -> str:
    """A reference or partitioned region, a node a line: operation, type, layout, `.moe` line."""
    lines = [f"region {region.kind}({', '.join(region.inputs)}) -> {', '.join(region.outputs)}"]
    for node in region.nodes():
        if node.op != "output":
            lines.append(_line(node))
    returned = ", ".join(
        f"{n} = %{v.name}" for n, v in zip(region.outputs, region.output_nodes(), strict=True)
    )
    return "\n".join([*lines, f"    return {returned}"])


def dump_plan(plan: Plan) -> str:
    """Mesh and buffers: what every rank holds."""
    mesh = plan.mesh
    degrees = ", ".join(
        f"{axis} {mesh.size(axis)}" for axis in AXES if axis not in ("data", "expert_owner", "rank")
    )
    memory = ", ".join(f"{name} {text}" for name, text in memory_texts(plan.memory).items())
    dispatch = f"dispatch {plan.dispatch}; " if mesh.expert > 1 else ""
    lines = [f"plan for {mesh.world} ranks: {degrees}; {dispatch}{memory}", *_formats(plan.numerics)]
    for kind, buffers in plan.buffers.items():
        for buffer in buffers:
            whose = f", that of {buffer.owner}" if buffer.owner not in (None, kind) else ""
            placement = _placement(plan, buffer)
            dtype = "" if DTYPES[buffer.dtype] == plan.numerics.parameters else f" in {buffer.dtype}"
            lines.append(f"  {kind}/{buffer.name}{whose}: {buffer.numel:,} elements{dtype}, {placement}")
            lines.extend(
                f"    {s.path:<28} {list(s.stored_shape)!s:<22} at {s.offset:,}" for s in buffer.slots
            )
    return "\n".join(lines)


def _formats(numerics: Numerics) -> Iterator[str]:
    """The formats that are not those of parameters; nothing where all are."""
    found = {field.name: getattr(numerics, field.name) for field in fields(numerics)}
    other = [f"{name} {str(dtype)[6:]}" for name, dtype in found.items() if dtype != numerics.parameters]
    if other:
        yield f"  {', '.join(other)}; all else {str(numerics.parameters)[6:]}"


def _placement(plan: Plan, buffer: Buffer) -> str:
    if not buffer.trained:
        return "whole on every rank, no gradients"
    return f"{buffer.ranks} shards over {buffer.shard_axis}, gradients {_reduction(plan, buffer)}"


def _reduction(plan: Plan, buffer: Buffer) -> str:
    parts = []
    if buffer.ranks > 1:
        parts.append(f"reduce-scattered over {buffer.shard_axis}")
    if plan.mesh.size(buffer.replica_axis) > 1:
        parts.append(f"summed over {buffer.replica_axis}")
    return " and ".join(parts) or "local"


def _line(node: fx.Node) -> str:
    if node.op == "placeholder":
        text = f"    %{node.name} = {parameter_path(node) or 'input'}"
    else:
        arguments = ", ".join(
            [*map(_argument, node.args), *(f"{k}={_argument(a)}" for k, a in node.kwargs.items())]
        )
        text = f"    %{node.name} = {getattr(node.target, '__name__', node.target)}({arguments})"
    layout = f"{node.meta[LAYOUT]}" if LAYOUT in node.meta else ""
    place = f"# {origin(node)}" if origin(node).line else ""
    return f"{text:<78} {', '.join(_types(node.meta[VAL])):<28} {layout:<18} {place}".rstrip()


def _types(value: Any) -> Iterator[str]:
    if isinstance(value, Tensor):
        yield f"{str(value.dtype).removeprefix('torch.')} ({', '.join(map(str, value.shape))})"
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _types(part)
    else:
        yield "int"


def _argument(argument: Any) -> str:
    if isinstance(argument, fx.Node):
        return f"%{argument.name}"
    if isinstance(argument, tuple | list):
        return list_text(argument, _argument)
    return repr(argument)
