"""Rules of differentiated regions: what an executor is given.

Operations of the instruction set only; parameters are views inside their buffer; every collective that starts
is waited for, once, in the same graph; nothing but the graph's ports crosses from forward to backward.
"""

from __future__ import annotations

from torch import fx

from moec.compiler.differentiate.bind import DifferentiatedRegion
from moec.runtime.abi import machine_ops
from moec.runtime.abi.instructions import COLLECTIVE_STARTS, COPY_STARTS, UnknownInstructionError, name_of

from .report import Problems, check


def verify_differentiated(region: DifferentiatedRegion) -> None:
    """Raises InternalCompilerError with everything that is wrong."""
    sizes = {buffer.name: buffer.numel for buffer in region.buffers}
    ports = {
        "forward": (
            region.forward,
            len(region.buffers) + len(region.inputs),
            len(region.outputs) + len(region.saved),
        ),
        "backward": (
            region.backward,
            len(region.backward_buffers)
            + len(region.backward_inputs)
            + len(region.saved)
            + len(region.output_grads),
            len(region.trained) + len(region.input_grads),
        ),
    }
    for name, (graph, inputs, outputs) in ports.items():
        graph.lint()
        problems = [*instructions(graph), *_views(graph, sizes), *_ports(graph, inputs, outputs)]
        check(f"{region.kind}.{name}", graph, problems)


def instructions(graph: fx.Graph) -> Problems:
    """Every operation is an instruction, and every start of a collective has its one wait."""
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        try:
            name = name_of(node.target)
        except UnknownInstructionError:
            yield node, f"{node.target} is not in the instruction set"
            continue
        if name in COLLECTIVE_STARTS | COPY_STARTS:
            waits = [user for user in node.users if user.target is machine_ops.wait]
            if len(waits) != 1 or len(node.users) != 1:
                yield node, f"is waited for {len(waits)} times"


def _views(graph: fx.Graph, sizes: dict[str, int]) -> Problems:
    for node in graph.nodes:
        if node.target is machine_ops.parameter:
            whole, offset, shape = node.args
            length = 1
            for size in shape:
                length *= size
            if offset < 0 or offset + length > sizes.get(whole.name, 0):
                yield node, f"reaches past the end of {whole.name}"


def _ports(graph: fx.Graph, inputs: int, outputs: int) -> Problems:
    output = graph.output_node()
    found = sum(node.op == "placeholder" for node in graph.nodes)
    if found != inputs:
        yield output, f"takes {found} values, the contract names {inputs}"
    (returned,) = output.args
    if len(returned) != outputs:  # type: ignore[arg-type]
        yield output, f"returns {len(returned)} values, the contract names {outputs}"  # type: ignore[arg-type]
