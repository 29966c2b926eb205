"""Trace a partitioned region's forward and backward into one joint graph of torch and moec operations.

torch's own tracing does it: `make_fx` over the region and `autograd.grad` of it, on fake tensors. Our
operations have autograd formulas, so their backward is traced too, collectives included. Model-level
operations are traced away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd.graph import Node as GradNode
from torch.fx.experimental.proxy_tensor import make_fx

from moec.compiler.graph import (
    COMPONENT,
    LABEL,
    ORIGIN,
    PartitionedRegion,
    component,
    fake_mode,
    origin,
    value,
)
from moec.dsl.spec import NOWHERE


@dataclass(frozen=True)
class Joint:
    """Forward and backward in one graph.

    Its placeholders are parameters, inputs and output gradients, in the region's order; it returns outputs,
    gradients of the trained parameters, and input gradients. What it returns is read from the graph, which
    passes may edit.
    """

    region: PartitionedRegion
    graph: fx.Graph
    parameters: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    output_grads: dict[str, fx.Node]  # of differentiable outputs

    @property
    def outputs(self) -> tuple[fx.Node, ...]:
        """What forward gives."""
        return self._returned()[: len(self.region.outputs)]

    @property
    def trained(self) -> tuple[fx.Node, ...]:
        """The parameters that have a gradient."""
        pairs = zip(self.parameters, self.region.parameters, strict=True)
        return tuple(node for node, parameter in pairs if parameter.trained)

    @property
    def parameter_grads(self) -> tuple[fx.Node, ...]:
        """Their gradients, in their order."""
        first = len(self.region.outputs)
        return self._returned()[first : first + len(self.trained)]

    @property
    def input_grads(self) -> dict[str, fx.Node]:
        """Gradients of the differentiable inputs."""
        names = [name for name in self.region.inputs if name in self.region.differentiable]
        grads = self._returned()[len(self.region.outputs) + len(self.trained) :]
        return dict(zip(names, grads, strict=False))

    def _returned(self) -> tuple[fx.Node, ...]:
        (returned,) = self.graph.output_node().args
        assert isinstance(returned, list | tuple)
        return tuple(returned)


def trace_joint(region: PartitionedRegion) -> Joint:
    """Trace `region` and its backward, for gradients of its differentiable outputs."""
    outputs = [name for name in region.outputs if name in region.differentiable]
    inputs = [name for name in region.inputs if name in region.differentiable]
    interpreter = _Annotating(region)

    def joint(parameters: list[Tensor], values: list[Tensor], grads: list[Tensor]) -> list[Any]:
        results = interpreter.run(*parameters, *values)
        by_name = dict(zip(region.outputs, results, strict=True))
        given = dict(zip(region.inputs, values, strict=True))
        trained = [t for t, p in zip(parameters, region.parameters, strict=True) if p.trained]
        wrt = [*trained, *(given[name] for name in inputs)]
        found = torch.autograd.grad(
            [by_name[name] for name in outputs], wrt, grads, allow_unused=True, materialize_grads=True
        )
        return [*results, *found]

    with fake_mode(), fx.traceback.preserve_node_meta():
        args = _fresh_arguments(region, outputs)
        traced = make_fx(joint, tracing_mode="symbolic")(*args)
    return _joint(region, traced.graph, outputs)


def _joint(region: PartitionedRegion, graph: fx.Graph, outputs: list[str]) -> Joint:
    """Name the parts of a traced graph. `outputs`: the differentiable ones."""
    for node in graph.nodes:
        custom = node.meta.pop("custom", {})
        node.meta[ORIGIN], node.meta[COMPONENT] = custom.get(ORIGIN, NOWHERE), custom.get(COMPONENT, "")
    graph.set_codegen(fx.graph.CodeGen())  # flat arguments, as they are
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    parameters, values = len(region.parameters), len(region.inputs)
    for node, source in zip(placeholders, (*region.parameter_nodes(), *region.input_nodes()), strict=False):
        node.meta[ORIGIN] = origin(source)
    ports = [
        *(f"whole {p.path}" for p in region.parameters),
        *region.inputs,
        *(f"grad {n}" for n in outputs or ()),
    ]
    for node, port in zip(placeholders, ports, strict=True):
        node.meta[LABEL] = port
    return Joint(
        region=region,
        graph=graph,
        parameters=tuple(placeholders[:parameters]),
        inputs=tuple(placeholders[parameters : parameters + values]),
        output_grads=dict(zip(outputs, placeholders[parameters + values :], strict=True)),
    )


class _Annotating(fx.Interpreter):
    """Runs a region under tracing; traced nodes learn which `.moe` line and component they are for, in
    backward too."""

    def __init__(self, region: PartitionedRegion) -> None:
        super().__init__(torch.nn.Module(), garbage_collect_values=False, graph=region.graph)
        self.seen: set[GradNode] = set()

    def run_node(self, n: fx.Node) -> Any:
        # As the base class does it, but for what it says about traced nodes: that would undo the annotation.
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        labels = {ORIGIN: origin(n), COMPONENT: component(n)}
        with fx.traceback.annotate(labels):
            result = getattr(self, n.op)(n.target, args, kwargs)
        for leaf in torch.utils._pytree.tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.grad_fn is not None:
                self._mark(leaf.grad_fn, labels)
        return result

    def _mark(self, newest: GradNode, labels: dict[str, Any]) -> None:
        """Autograd nodes that this operation added say, when backward reaches them, where they are from."""
        pending: list[GradNode | None] = [newest]
        while pending:
            node = pending.pop()
            if node is None or node in self.seen:
                continue
            self.seen.add(node)
            node.register_prehook(lambda _: fx.traceback.current_meta.update(custom=labels))
            pending.extend(following for following, _ in node.next_functions)


def _fresh_arguments(
    region: PartitionedRegion, outputs: list[str]
) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    def fresh(node_value: Any, grad: bool) -> Tensor:
        return torch.empty(node_value.shape, dtype=node_value.dtype).requires_grad_(grad)

    values = dict(zip(region.outputs, (value(n) for n in region.output_nodes()), strict=True))
    return (
        [
            fresh(value(node), parameter.trained)
            for parameter, node in zip(region.parameters, region.parameter_nodes(), strict=True)
        ],
        [
            fresh(value(node), name in region.differentiable)
            for name, node in zip(region.inputs, region.input_nodes(), strict=True)
        ],
        [fresh(values[name], False) for name in outputs],
    )
