"""Which values of forward are kept for backward, and which are computed again there.

A policy is a predicate over the nodes of forward: it is asked only for values that backward needs. Views of
anything and constants are never kept: a view is a reference, not memory, and is made again for nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import fx

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

Policy = Callable[[fx.Node], bool]


def keep_all(node: fx.Node) -> bool:
    """recompute = none: whatever backward needs is kept."""
    return True


def keep_none(node: fx.Node) -> bool:
    """recompute = full: only the region's inputs are kept, and forward runs again inside backward."""
    return False


POLICIES: dict[str, Policy] = {"none": keep_all, "full": keep_none}


def is_free(node: fx.Node) -> bool:
    """Whether computing the node again costs no memory and next to no time."""
    if node.target is operator.getitem:
        return False  # an element of a result: kept by itself, the rest of the result is not
    return node.target in _FREE
