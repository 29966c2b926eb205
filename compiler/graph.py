"""Region graphs: one torch.fx graph a kind of region, typed by level. The only door to `node.meta`.

A model is a chain of regions: `embed`, one per layer, `head`. A region takes parameters, values of the chain
(the residual stream `x` and carried router statistics) and facts about the batch, and gives the values of the
chain on.

    ReferenceRegion      operations of `model_ops`, one device, whole parameters, no collectives
    PartitionedRegion    the same on a rank's part, every value with a layout, collectives where layouts meet
    (differentiated regions are in `differentiate.py`)

What a node carries: `val` (a fake tensor, or a list of them: shape and dtype), `origin` (the `.moe` line),
`component` (whose value it is, a name of `dsl.components`; "" for none), `parameter` (placeholders of
parameters: the path), `layout` (from `place` on).
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from moec.dsl.parameters import Parameter
from moec.dsl.spec import NOWHERE, Origin

from .layout import Layout

VAL, ORIGIN, PARAMETER, LAYOUT, LABEL = "val", "origin", "parameter", "layout", "label"
COMPONENT = "component"


@dataclass(frozen=True)
class Region:
    """What every level of region has. `inputs` and `outputs` name the placeholders that are no parameters,
    and the elements of the output tuple, in order. `differentiable` are the inputs and outputs that gradients
    flow through."""

    kind: str
    graph: fx.Graph
    parameters: tuple[Parameter, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    differentiable: frozenset[str]
    fake: FakeTensorMode
    origin: Origin

    def nodes(self) -> Iterator[fx.Node]:
        """In order."""
        return iter(self.graph.nodes)

    def parameter_nodes(self) -> list[fx.Node]:
        """The placeholders of parameters, in the order of `parameters`."""
        return [node for node in self.graph.nodes if PARAMETER in node.meta]

    def input_nodes(self) -> list[fx.Node]:
        """The other placeholders, in the order of `inputs`."""
        return [n for n in self.graph.nodes if n.op == "placeholder" and PARAMETER not in n.meta]

    def output_nodes(self) -> list[fx.Node]:
        """The values returned, in the order of `outputs`."""
        (returned,) = self.graph.output_node().args
        assert isinstance(returned, tuple)
        return list(returned)


class ReferenceRegion(Region):
    """The meaning of a region."""


class PartitionedRegion(Region):
    """One rank's part of a region."""


def identifier(path: str) -> str:
    """A path as the name of a node."""
    return path.replace("{}", "each").translate(str.maketrans("./ ", "___"))


def fake_mode() -> FakeTensorMode:
    """Tensors without storage; sizes that depend on data become symbols."""
    return FakeTensorMode(shape_env=ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True))


def value(node: fx.Node) -> Any:
    """The fake tensor (or tuple of them, or symbolic size) that a node computes."""
    return node.meta[VAL]


def origin(node: fx.Node) -> Origin:
    """The `.moe` line a node came from."""
    found: Origin = node.meta.get(ORIGIN, NOWHERE)
    return found


def component(node: fx.Node) -> str:
    """The component of the model that a node is of, "" if it is of none."""
    found: str = node.meta.get(COMPONENT, "")
    return found


def common_component(a: str, b: str) -> str:
    """The innermost component that both are inside of: what lies between two parts belongs to neither."""
    pairs = zip(a.split("."), b.split("."), strict=False)
    return ".".join(x for x, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def parameter_path(node: fx.Node) -> str | None:
    """The parameter a placeholder stands for."""
    return node.meta.get(PARAMETER)


def layout(node: fx.Node) -> Layout:
    """How the value is spread over ranks; from `place` on."""
    found: Layout = node.meta[LAYOUT]
    return found


def set_layout(node: fx.Node, new: Layout) -> None:
    """Give a node its layout."""
    node.meta[LAYOUT] = new


class Builder:
    """Adds nodes to a graph with everything a node has to carry."""

    def __init__(self, graph: fx.Graph, fake: FakeTensorMode) -> None:
        self.graph, self.fake = graph, fake
        self.component = ""  # that new nodes are of

    @contextmanager
    def within(self, component: str) -> Iterator[None]:
        """New nodes are of this component."""
        before, self.component = self.component, component
        try:
            yield
        finally:
            self.component = before

    def placeholder(
        self, name: str, shape: tuple[int, ...], dtype: torch.dtype, at: Origin, parameter: str | None = None
    ) -> fx.Node:
        """A tensor that comes from outside."""
        node = self.graph.placeholder(identifier(name))
        node.target = node.name  # two paths may be one identifier
        with self.fake:
            node.meta[VAL] = torch.empty(shape, dtype=dtype)
        node.meta[ORIGIN] = at
        if parameter is not None:
            node.meta[PARAMETER] = parameter
        return node

    def call(self, function: Callable[..., Any], *args: Any, at: Origin, **kwargs: Any) -> fx.Node:
        """function(*args, **kwargs), with nodes in the arguments; runs it on fake tensors for its shape."""
        node = self.graph.call_function(function, args, kwargs)
        with self.fake:
            fake_args, fake_kwargs = fx.map_arg((args, kwargs), value)
            node.meta[VAL] = function(*fake_args, **fake_kwargs)
        node.meta[ORIGIN] = at
        node.meta[COMPONENT] = self.component
        return node

    def unpack(self, node: fx.Node, count: int) -> list[fx.Node]:
        """The first `count` elements of a node that is a tuple."""
        return [self.call(operator.getitem, node, i, at=origin(node)) for i in range(count)]


def run(
    region: ReferenceRegion, parameters: dict[str, torch.Tensor], inputs: dict[str, Any]
) -> dict[str, Any]:
    """Run a reference region as it is: the meaning, on real tensors, differentiable by plain autograd."""
    args = [parameters[p.path] for p in region.parameters] + [inputs[name] for name in region.inputs]
    return dict(zip(region.outputs, interpret(region.graph, args), strict=True))


def interpret(graph: fx.Graph, args: list[Any]) -> Any:
    """Run a graph node by node, without generating code."""
    return fx.Interpreter(torch.nn.Module(), garbage_collect_values=False, graph=graph).run(*args)
