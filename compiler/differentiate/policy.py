"""Which values of forward are kept for backward, and which are computed again there.

A policy says it of every value of forward that backward needs. Views of anything and constants are never
kept: a view is a reference, not memory, and is made again for nothing.

What is made again runs the instructions of forward on the values of forward, collectives included, in their
order, on all ranks alike. So it is equal in every bit. Only counts are not asked for twice: where a policy
keeps anything at all, it keeps what a collective of whole numbers gave, and a number of rows.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from moec.compiler.graph import VAL, component
from moec.dsl.components import is_inside
from moec.runtime.abi import collective_ops  # noqa: F401  (registers the collectives)

_aten = torch.ops.aten

_FREE = {
    _aten.t.default,
    _aten.transpose.int,
    _aten.permute.default,
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.unsqueeze.default,
    _aten.squeeze.dim,
    _aten.expand.default,
    _aten.slice.Tensor,
    _aten.select.int,
    _aten.full.default,
    _aten.arange.default,
    _aten.arange.start_step,
}
_COLLECTIVES = {
    torch.ops.moec.all_to_all.default,
    torch.ops.moec.all_reduce.default,
    torch.ops.moec.shard_gather.default,
}


@dataclass(frozen=True)
class Policy:
    """The values of the components `names` are made again, and of what is inside of them if `inside`.

    `everything`: all values are, whatever they are of. The component "" is what lies between the others.
    """

    names: tuple[str, ...] = ()
    inside: bool = True
    everything: bool = False

    def keeps(self, node: fx.Node) -> bool:
        """Whether the value of a node of forward is kept, if backward needs it."""
        if self.everything:
            return False
        of = component(node)
        again = is_inside(of, self.names) if self.inside else of in self.names
        return not again or _is_count(node)

    def __str__(self) -> str:
        if self.everything:
            return "layer"
        return ", ".join(name or "the rest" for name in self.names) or "none"


KEEP_ALL = Policy()
"""recompute = none: whatever backward needs is kept."""

KEEP_NONE = Policy(everything=True)
"""recompute = layer: only the region's inputs are kept, and forward runs again inside backward."""


def is_free(node: fx.Node) -> bool:
    """Whether computing the node again costs no memory and next to no time."""
    if node.target is operator.getitem:
        return False  # an element of a result: kept by itself, the rest of the result is not
    return node.target in _FREE or (node.target is _aten._to_copy.default and _widens(node))


def _widens(node: fx.Node) -> bool:
    """Whether a cast to a wider dtype: its operand says the same in half the memory."""
    given = node.args[0]
    assert isinstance(given, fx.Node)
    dtypes = [x.meta[VAL].dtype for x in (given, node)]
    return all(dtype.is_floating_point for dtype in dtypes) and dtypes[0].itemsize < dtypes[1].itemsize


def _is_count(node: fx.Node) -> bool:
    """A number, or what a collective of whole numbers gave."""
    found = node.meta.get(VAL)
    if not isinstance(found, Tensor):
        return isinstance(found, int | torch.SymInt)
    return node.target in _COLLECTIVES and not found.dtype.is_floating_point
