"""Which layout an operation needs its arguments in.

One table, read by the pass that joins layouts and its verifier.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from moec.compiler import exchange_ops, model_ops
from moec.compiler.graph import layout
from moec.compiler.layout import AtExperts, Layout, Partial, Whole
from moec.runtime.abi.mesh import Mesh

_AT_EXPERTS = (model_ops.expert_mm, model_ops.expert_add)
"""They take rows, a parameter, and the counts of rows by expert."""

_PADDING: dict[object, tuple[int, ...]] = {
    model_ops.pad_experts: (0, 1),
    model_ops.padded_counts: (0,),
    model_ops.unpad_experts: (1, 3),
}
"""Where they take rows and counts: padding is done at experts."""


_AS_ORDER: dict[object, tuple[int, int]] = {
    model_ops.dispatch: (0, 1),
    model_ops.weigh_rows: (1, 2),
    model_ops.combine: (1, 2),
    exchange_ops.dispatch_own: (0, 1),
    exchange_ops.weigh_own: (1, 2),
    exchange_ops.combine_own: (1, 2),
}
"""Of which tokens they take rows or weights is what the order of rows is for: (position, that of it)."""


def required(node: fx.Node, mesh: Mesh) -> Iterator[tuple[int, Layout]]:
    """(argument position, layout) for every argument of `node` that needs one in particular."""
    if node.target in _AS_ORDER:
        position, order = _AS_ORDER[node.target]
        yield position, layout(_argument(node, order))
    if node.target in _AT_EXPERTS and isinstance(layout(node), AtExperts):
        yield 0, layout(node)
        yield 2, layout(node)
    elif node.target in _PADDING and mesh.expert > 1:
        yield from ((position, AtExperts("expert")) for position in _PADDING[node.target])
    elif node.target is model_ops.combine and mesh.expert > 1:
        yield 0, layout(_argument(node, 2))
    elif node.target is exchange_ops.combine_own:
        yield 0, AtExperts("expert")
    elif node.target is model_ops.balance_loss:
        yield 0, Whole()


def equal(a: Layout, b: Layout, mesh: Mesh) -> bool:
    """Whether a value in layout `a` is one in layout `b` as it is, on this mesh."""
    return a == b or (isinstance(a, Partial) and isinstance(b, Whole) and mesh.size(a.axis) == 1)


def open_edges(node: fx.Node, mesh: Mesh) -> Iterator[tuple[int, fx.Node, Layout]]:
    """The arguments of `node` that are not in the layout it needs: (position, value, needed)."""
    for position, needed in required(node, mesh):
        argument = _argument(node, position)
        if not equal(layout(argument), needed, mesh):
            yield position, argument, needed


def _argument(node: fx.Node, position: int) -> fx.Node:
    argument = node.args[position]
    assert isinstance(argument, fx.Node)
    return argument
