"""Rules of reference and partitioned regions.

both           every value has a shape and a `.moe` line; shapes are what the operations give; ports match
reference      operations of the model only: no collective, no layout
partitioned    every value has a layout; once closed, no edge joins two layouts and no mark is left
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from moec.compiler import exchange_ops, model_ops
from moec.compiler.graph import LAYOUT, ORIGIN, VAL, PartitionedRegion, ReferenceRegion, Region, layout, value
from moec.compiler.passes.requirements import open_edges
from moec.compiler.passes.results import COLLECTIVES, port, result
from moec.runtime.abi.mesh import AXES, Mesh

from .report import Problems, check

_BUILTINS = {torch.zeros, operator.getitem}
_OF_THE_MODEL = {f for f in vars(model_ops).values() if callable(f)}
_EXCHANGE = {f for f in vars(exchange_ops).values() if callable(f) and f.__module__ == exchange_ops.__name__}


def verify_reference(region: ReferenceRegion) -> None:
    """Raises InternalCompilerError with everything that is wrong."""
    check(region.kind, region.graph, [*_common(region, _OF_THE_MODEL), *_shapes(region)])


def verify_placed(region: PartitionedRegion, mesh: Mesh) -> None:
    """After `place`: layouts everywhere; edges may still join two."""
    problems = [*_common(region, _OF_THE_MODEL | _EXCHANGE), *_layouts(region, mesh)]
    check(region.kind, region.graph, problems)


def verify_marked(region: PartitionedRegion, mesh: Mesh) -> None:
    """After `insert_redistribution`: no edge joins two layouts."""
    problems = [*_common(region, _OF_THE_MODEL | _EXCHANGE), *_layouts(region, mesh), *_open(region, mesh)]
    check(region.kind, region.graph, problems)


def verify_partitioned(region: PartitionedRegion, mesh: Mesh) -> None:
    """After `lower_redistribution`: closed, no mark left, every collective on an axis of several ranks."""
    problems = [
        *_common(region, _OF_THE_MODEL | _EXCHANGE - {exchange_ops.redistribute}),
        *_layouts(region, mesh),
        *_open(region, mesh),
        *_axes(region, mesh),
        *_shapes(region),
    ]
    check(region.kind, region.graph, problems)


def _common(region: Region, allowed: set[Callable[..., Any]]) -> Problems:
    region.graph.lint()
    for node in region.nodes():
        if node.op not in ("placeholder", "call_function", "output"):
            yield node, f"{node.op} has no place in a region"
        elif VAL not in node.meta:
            yield node, "has no value"
        elif node.op == "call_function":
            if node.target not in allowed | _BUILTINS:
                yield node, f"{node.target} is no operation of this level"
            if ORIGIN not in node.meta:
                yield node, "has no line of the .moe file"
    output = region.graph.output_node()
    if len(region.output_nodes()) != len(region.outputs):
        yield output, f"returns {len(region.output_nodes())} values, the contract names {len(region.outputs)}"
    if len(region.input_nodes()) != len(region.inputs):
        yield output, f"takes {len(region.input_nodes())} values, the contract names {len(region.inputs)}"


def _shapes(region: Region) -> Problems:
    """Run every operation on the fake values of its arguments and compare."""
    for node in region.nodes():
        if node.op != "call_function" or node.target is exchange_ops.total:
            continue
        try:
            with region.fake:
                args, kwargs = fx.map_arg((node.args, node.kwargs), value)
                found = node.target(*args, **kwargs)  # type: ignore[operator]
        except Exception as error:  # whatever an operation says to arguments it is not made for
            yield node, f"does not take its arguments: {error}"
            continue
        if _types(found) != _types(value(node)):
            yield node, f"computes {_types(found)}, but says {_types(value(node))}"


def _types(found: Any) -> Any:
    if isinstance(found, Tensor):
        return f"{found.dtype} {tuple(found.shape)}"
    return tuple(_types(f) for f in found) if isinstance(found, tuple) else type(found)


def _layouts(region: PartitionedRegion, mesh: Mesh) -> Problems:
    for node in region.nodes():
        if node.op == "output":
            continue
        if LAYOUT not in node.meta:
            yield node, "has no layout"
        elif all(LAYOUT in argument.meta for argument in node.all_input_nodes):
            found = result(node, region, mesh)
            if found != layout(node):
                yield node, f"says {layout(node)}, but gives {found or 'no layout'}"
    for name, node in zip(region.outputs, region.output_nodes(), strict=False):
        if node.meta.get(LAYOUT) != port(name):
            yield region.graph.output_node(), f"returns {name} {node.meta.get(LAYOUT)}, not {port(name)}"


def _open(region: PartitionedRegion, mesh: Mesh) -> Problems:
    for node in region.nodes():
        if node.op == "call_function":
            for position, argument, needed in open_edges(node, mesh):
                yield node, f"argument {position}, %{argument.name}, is not {needed}"


def _axes(region: PartitionedRegion, mesh: Mesh) -> Problems:
    for node in region.nodes():
        if node.target in COLLECTIVES:
            axis = node.args[-1]
            if axis not in AXES or mesh.size(str(axis)) < 2:
                yield node, f"moves data over {axis}, which has no second rank"
