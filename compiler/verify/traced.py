"""Rules of joint graphs and of their two halves, on the way to a differentiated region.

joint       a gradient for every trained parameter and every differentiable input, of its shape
simplified  the same, of the instruction set's operations; collectives in their order, none new
split       each half has its collectives in the order of the joint graph, and no collective is lost
"""

from __future__ import annotations

from collections import Counter

from torch import fx

from moec.compiler.differentiate.split import Split
from moec.compiler.differentiate.trace import Joint
from moec.compiler.graph import value
from moec.compiler.passes.split_collectives import STARTS

from .differentiated import instructions
from .report import Problems, check

Collectives = tuple[tuple[str, str], ...]
"""(operation, axis) of every collective of a graph, in order."""


def collectives(graph: fx.Graph) -> Collectives:
    """The collectives of a graph that are not split into halves yet."""
    return tuple((str(n.target), str(n.args[-1])) for n in graph.nodes if n.target in STARTS)


def verify_joint(joint: Joint) -> None:
    """Raises InternalCompilerError with everything that is wrong."""
    joint.graph.lint()
    check(f"{joint.region.kind} (joint)", joint.graph, [*_gradients(joint)])


def verify_simplified(joint: Joint, before: Collectives) -> None:
    """After `simplify`; `before` are the collectives from before it."""
    verify_joint(joint)
    problems = [*instructions(joint.graph)]
    if not _in_order(collectives(joint.graph), before):
        problems.append((joint.graph.output_node(), "has its collectives in another order than before"))
    check(f"{joint.region.kind} (simplified)", joint.graph, problems)


def verify_split(cut: Split) -> None:
    """Raises InternalCompilerError with everything that is wrong."""
    whole, kind = collectives(cut.joint.graph), cut.joint.region.kind
    for name, graph in (("forward", cut.forward), ("backward", cut.backward)):
        graph.lint()
        ordered = _in_order(collectives(graph), whole)
        fault = (graph.output_node(), "has its collectives in another order than before")
        check(f"{kind} ({name} half)", graph, [] if ordered else [fault])
    lost = Counter(whole) - Counter(collectives(cut.forward)) - Counter(collectives(cut.backward))
    output = cut.backward.output_node()
    check(kind, cut.backward, [(output, f"no half has {op} over {axis}") for op, axis in lost])


def _gradients(joint: Joint) -> Problems:
    pairs = [*zip(joint.trained, joint.parameter_grads, strict=True)]
    by_name = dict(zip(joint.region.inputs, joint.inputs, strict=True))
    pairs += [(by_name[name], grad) for name, grad in joint.input_grads.items()]
    for source, grad in pairs:
        if value(source).shape != value(grad).shape or value(source).dtype != value(grad).dtype:
            yield grad, f"is no gradient of %{source.name}: {value(grad).shape} for {value(source).shape}"
    if joint.output_grads.keys() != set(joint.region.outputs) & joint.region.differentiable:
        yield joint.graph.output_node(), "does not take the gradients of the differentiable outputs"


def _in_order(part: Collectives, whole: Collectives) -> bool:
    """Whether `part` is `whole` with some left out."""
    rest = iter(whole)
    return all(one in rest for one in part)
