"""Split a joint graph into forward and backward by a policy over the values that cross.

    forward:   parameters, inputs                                    -> outputs, saved values
    backward:  parameters, inputs, saved values, output gradients    -> parameter gradients, input gradients

Backward takes of every group only what it uses. Saved values are tensors, or numbers: a data-dependent row
count is kept as a number.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

from torch import fx

from moec.compiler.graph import LABEL, identifier

from .policy import Policy, is_free
from .trace import Joint


@dataclass(frozen=True)
class Split:
    """Two graphs and what joins them.

    All tuples name nodes of the joint graph, in the order of the graphs' ports.
    """

    joint: Joint
    forward: fx.Graph  # placeholders: joint.parameters, joint.inputs; returns joint.outputs + saved
    backward: fx.Graph  # placeholders: backward_parameters, backward_inputs, saved, joint.output_grads
    saved: tuple[fx.Node, ...]
    backward_parameters: tuple[fx.Node, ...]
    backward_inputs: tuple[fx.Node, ...]


@dataclass(frozen=True)
class Crossing:
    """What a policy keeps of a joint graph, and what it makes again. All in the order of the graph."""

    saved: tuple[fx.Node, ...]
    again: tuple[fx.Node, ...]  # of forward, computed in backward once more; views among them
    inputs: tuple[fx.Node, ...]  # of the region, that backward uses


def forward_of(joint: Joint) -> tuple[fx.Node, ...]:
    """What the outputs of a region are computed from, in the order of the joint graph."""
    found = _ancestors(joint.outputs)
    return tuple(node for node in joint.graph.nodes if node in found and node.op == "call_function")


def cross(joint: Joint, policy: Policy) -> Crossing:
    """What `split` would do, without doing it."""
    forward_nodes = _ancestors(joint.outputs)
    crossing = _cross(joint, forward_nodes, policy)
    nodes = tuple(joint.graph.nodes)
    return Crossing(
        saved=tuple(node for node in nodes if node in crossing.saved),
        again=tuple(node for node in nodes if node in crossing.computed and node in forward_nodes),
        inputs=crossing.used(joint.inputs),
    )


def _cross(joint: Joint, forward_nodes: set[fx.Node], policy: Policy) -> _Crossing:
    crossing = _Crossing(joint, forward_nodes, policy)
    crossing.need((*joint.parameter_grads, *joint.input_grads.values()))
    return crossing


def split(joint: Joint, policy: Policy) -> Split:
    """Cut `joint` in two; `policy` says what to keep of what backward needs."""
    forward_nodes = _ancestors(joint.outputs)
    gradients = (*joint.parameter_grads, *joint.input_grads.values())
    crossing = _cross(joint, forward_nodes, policy)
    saved = tuple(node for node in joint.graph.nodes if node in crossing.saved)
    return Split(
        joint=joint,
        forward=_extract(
            joint.graph,
            (*joint.parameters, *joint.inputs),
            (*joint.outputs, *saved),
            forward_nodes | _ancestors(saved),
        ),
        backward=_extract(
            joint.graph,
            (
                *crossing.used(joint.parameters),
                *crossing.used(joint.inputs),
                *saved,
                *joint.output_grads.values(),
            ),
            gradients,
            crossing.computed,
        ),
        saved=saved,
        backward_parameters=crossing.used(joint.parameters),
        backward_inputs=crossing.used(joint.inputs),
    )


class _Crossing:
    """Walks back from the gradients and decides for every value: given, saved, or computed in backward."""

    def __init__(self, joint: Joint, forward: set[fx.Node], policy: Policy) -> None:
        self.forward, self.policy = forward, policy
        self.given = {*joint.parameters, *joint.inputs, *joint.output_grads.values()}
        self.saved: set[fx.Node] = set()
        self.computed: set[fx.Node] = set()
        self.seen: set[fx.Node] = set()

    def need(self, nodes: tuple[fx.Node, ...]) -> None:
        pending = list(nodes)
        while pending:
            node = pending.pop()
            if node in self.seen:
                continue
            self.seen.add(node)
            if node in self.given:
                continue
            if self._in_forward(node) and not is_free(node) and self.policy.keeps(node):
                self.saved.add(node)
                continue
            self.computed.add(node)
            pending.extend(node.all_input_nodes)

    def _in_forward(self, node: fx.Node) -> bool:
        """An element that only backward uses, of a result that forward computes, is forward's as well."""
        return node in self.forward or (node.target is operator.getitem and node.args[0] in self.forward)

    def used(self, nodes: tuple[fx.Node, ...]) -> tuple[fx.Node, ...]:
        return tuple(node for node in nodes if node in self.seen)


def _ancestors(nodes: tuple[fx.Node, ...]) -> set[fx.Node]:
    found: set[fx.Node] = set()
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if node not in found:
            found.add(node)
            pending.extend(node.all_input_nodes)
    return found


def _extract(
    graph: fx.Graph, inputs: tuple[fx.Node, ...], outputs: tuple[fx.Node, ...], computed: set[fx.Node]
) -> fx.Graph:
    """A new graph from `inputs` to `outputs` that computes the nodes of `computed`, in their order."""
    new = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in inputs:
        copies[node] = new.placeholder(identifier(node.meta.get(LABEL, node.name)))
        copies[node].meta = dict(node.meta)
    for node in graph.nodes:
        if node in computed and node.op == "call_function":
            copies[node] = new.node_copy(node, lambda n: copies[n])
    new.output(tuple(copies[node] for node in outputs))
    return new
