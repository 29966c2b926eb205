"""bind: parameters of forward and backward become views of flat buffers, gradients are packed into them.

    %w = placeholder (D, D)              %matrices = placeholder (numel,)
    %y = mm(%x, %w)              ->      %w = parameter(%matrices, 0, [D, D])
                                         %y = mm(%x, %w)

    return %grad_w, ...          ->      %grads = pack([%grad_w, ...], numel)
                                         return %grads, ...

What comes out is a `DifferentiatedRegion`: the graphs as an executor runs them, and the contract of both.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from moec.compiler.graph import ORIGIN, identifier
from moec.dsl.spec import Origin
from moec.runtime.abi import machine_ops
from moec.runtime.abi.buffers import Buffer, Slot

from .split import Split


@dataclass(frozen=True)
class DifferentiatedRegion:
    """Forward and backward of one kind of region.

    All names are of ports, in the order of the graphs' placeholders.

    forward:   buffers, inputs                                          -> outputs, saved
    backward:  backward_buffers, backward_inputs, saved, output_grads   -> gradients of trained buffers,
                                                                           input_grads
    """

    kind: str
    buffers: tuple[Buffer, ...]
    forward: fx.Graph
    backward: fx.Graph
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    saved: tuple[str, ...]
    backward_buffers: tuple[str, ...]
    backward_inputs: tuple[str, ...]
    output_grads: tuple[str, ...]
    input_grads: tuple[str, ...]
    origin: Origin

    @property
    def trained(self) -> tuple[Buffer, ...]:
        """The buffers that have a gradient."""
        return tuple(buffer for buffer in self.buffers if buffer.trained)


def bind(cut: Split, buffers: tuple[Buffer, ...]) -> DifferentiatedRegion:
    """Bind the graphs of `cut`, in place, to the buffers of its region."""
    joint, region = cut.joint, cut.joint.region
    forward_nodes = _placeholders(cut.forward)
    forward_parameters = dict(zip((p.path for p in region.parameters), forward_nodes, strict=False))
    _bind_parameters(cut.forward, forward_parameters, buffers)

    paths = [region.parameters[joint.parameters.index(node)].path for node in cut.backward_parameters]
    backward_parameters = dict(zip(paths, _placeholders(cut.backward), strict=False))
    used = _bind_parameters(cut.backward, backward_parameters, buffers)
    trained = [p.path for p in region.parameters if p.trained]
    _pack_gradients(cut.backward, trained, buffers, region.origin)
    return DifferentiatedRegion(
        kind=region.kind,
        buffers=buffers,
        forward=cut.forward,
        backward=cut.backward,
        inputs=region.inputs,
        outputs=region.outputs,
        saved=tuple(node.name for node in cut.saved),
        backward_buffers=used,
        backward_inputs=tuple(region.inputs[joint.inputs.index(node)] for node in cut.backward_inputs),
        output_grads=tuple(joint.output_grads),
        input_grads=tuple(joint.input_grads),
        origin=region.origin,
    )


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _bind_parameters(
    graph: fx.Graph, parameters: dict[str, fx.Node], buffers: tuple[Buffer, ...]
) -> tuple[str, ...]:
    """Replace parameter placeholders by views; forward takes every buffer, backward those it uses.

    Returns them.
    """
    first = next(iter(graph.nodes))
    anchor = next(node for node in graph.nodes if node.op != "placeholder")
    bound = [buffer for buffer in buffers if any(slot.path in parameters for slot in buffer.slots)]
    with graph.inserting_before(first):
        wholes = [graph.placeholder(buffer.name) for buffer in bound]
    for buffer, whole in zip(bound, wholes, strict=True):
        for slot in buffer.slots:
            if slot.path in parameters:
                _replace_by_view(graph, parameters[slot.path], whole, slot, anchor)
    return tuple(buffer.name for buffer in bound)


def _replace_by_view(graph: fx.Graph, old: fx.Node, whole: fx.Node, slot: Slot, anchor: fx.Node) -> None:
    with graph.inserting_before(anchor):
        arguments = (whole, slot.offset, slot.stored_shape)
        view = graph.create_node(
            "call_function", machine_ops.parameter, arguments, name=identifier(slot.path)
        )
    view.meta = dict(old.meta)
    old.replace_all_uses_with(view)
    graph.erase_node(old)


def _pack_gradients(graph: fx.Graph, paths: list[str], buffers: tuple[Buffer, ...], at: Origin) -> None:
    output = graph.output_node()
    (returned,) = output.args
    assert isinstance(returned, tuple)
    by_path = dict(zip(paths, returned, strict=False))
    packed = []
    for buffer in (buffer for buffer in buffers if buffer.trained):
        with graph.inserting_before(output):
            gradients = [by_path[slot.path] for slot in buffer.slots]
            packed.append(graph.call_function(machine_ops.pack, (gradients, buffer.numel)))
        packed[-1].meta[ORIGIN] = at
    output.args = ((*packed, *returned[len(paths) :]),)
