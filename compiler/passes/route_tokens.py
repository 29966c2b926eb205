"""route_tokens: where tokens meet their experts, if it is not by all-to-all from where they are.

`all_gather`: a rank has the tokens of all ranks of its expert group, and of these the rows for its experts.

    %grouped = group_by_expert(%sent, E, E)      %sent_1 = redistribute(%sent)            gathered(expert)
    %rows = dispatch(%x, %order, %inverse, k)    %own = own_expert(%sent_1, E, e, expert) gathered(expert)
    ...                                     ->   %counts = own_counts(%own, e)            at experts(expert)
    %y = combine(%out, %weights, ...)            %order, %places = own_order(%own, e, total(%counts))
                                                 %rows = dispatch_own(%x, %order, ...)    at experts(expert)
                                                 ...
                                                 %y = combine_own(%out, ...)              summand of gathered
                                                 %y_1 = redistribute(%y)                  batch

`shuffle`: the tokens are first spread over the ranks of the group; for all_to_all

    %grouped = group_by_expert(%sent, E, E)      %sent_1 = redistribute(%sent)            shuffled(expert)
    ...                                     ->   %grouped = group_by_expert(%sent_1, E, E)
    %y = combine(%out, %weights, ...)            %y = combine(%out, %weights, ...)        shuffled(expert)
                                                 %y_1 = redistribute(%y)                  batch

A router's choices and weights are made before, where the tokens are. The edges at which `x` and weights come
in are open: `insert_redistribution` closes them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from moec.compiler import exchange_ops, model_ops
from moec.compiler.graph import (
    Builder,
    PartitionedRegion,
    component,
    origin,
    set_layout,
)
from moec.compiler.layout import Batch, Gathered, Layout, Shuffled
from moec.dsl.spec import Dispatch
from moec.runtime.abi.mesh import Mesh

from .results import EXPERT, result

FIRST, SHUFFLE = "first", "shuffle"
"""Inputs of a region that shuffles: the position of its first sequence, and the key of random numbers."""

_OWN: dict[object, Callable[..., Any]] = {
    model_ops.dispatch: exchange_ops.dispatch_own,
    model_ops.weigh_rows: exchange_ops.weigh_own,
    model_ops.combine: exchange_ops.combine_own,
}


def route_tokens(region: PartitionedRegion, mesh: Mesh, dispatch: Dispatch) -> PartitionedRegion:
    """`region`, which is edited; with inputs of their own where its tokens are shuffled."""
    groups = [node for node in region.nodes() if node.target is model_ops.group_by_expert]
    if mesh.expert == 1 or not groups or dispatch == Dispatch():
        return region
    if dispatch.shuffle:
        region = _with_inputs(region)
    routing = _Routing(region, mesh)
    gathered = dispatch.by == "all_gather"
    there = Gathered(EXPERT, dispatch.shuffle) if gathered else Shuffled(EXPERT)
    for node in [node for node in region.nodes() if node.target is model_ops.combine]:
        routing.bring_back(node)
    for group in groups:
        routing.take_there(group, there)
        if gathered:
            routing.group_own(group)
    if gathered:
        for node in region.nodes():
            if node.target in _OWN:
                node.target = _OWN[node.target]
    _place(region, mesh)
    return region


def _with_inputs(region: PartitionedRegion) -> PartitionedRegion:
    builder = Builder(region.graph, region.fake)
    missing = [name for name in (FIRST, SHUFFLE) if name not in region.inputs]
    last = [node for node in region.nodes() if node.op == "placeholder"][-1]
    with region.graph.inserting_after(last):
        for name in reversed(missing):
            builder.placeholder(name, (), torch.int64, region.origin)
    return replace(region, inputs=(*region.inputs, *missing))


class _Routing:
    def __init__(self, region: PartitionedRegion, mesh: Mesh) -> None:
        self.graph, self.mesh = region.graph, mesh
        self.builder = Builder(region.graph, region.fake)

    def bring_back(self, combine: fx.Node) -> None:
        """What uses the outputs of experts has them where the tokens were."""
        with self.graph.inserting_after(combine), self.builder.within(component(combine)):
            back = self._mark(combine, Batch(), combine)
        combine.replace_all_uses_with(back, lambda user: user is not back)

    def take_there(self, group: fx.Node, there: Layout) -> None:
        """What goes to experts is known there; what else looks at it does so here."""
        sent = group.args[0]
        assert isinstance(sent, fx.Node)
        with self.graph.inserting_before(group), self.builder.within(component(group)):
            group.update_arg(0, self._mark(sent, there, group))

    def group_own(self, group: fx.Node) -> None:
        """Order, places and counts of a rank's own experts, for those of all."""
        sent, experts, places = group.args
        assert isinstance(places, int)
        local, at = places // self.mesh.expert, origin(group)
        call = self.builder.call
        with self.graph.inserting_before(group), self.builder.within(component(group)):
            own = call(exchange_ops.own_expert, sent, experts, local, EXPERT, at=at)
            counts = call(exchange_ops.own_counts, own, local, at=at)
            received = call(exchange_ops.total, counts, at=at)
            both = call(exchange_ops.own_order, own, local, received, at=at)
            found = [call(operator.getitem, both, i, at=at) for i in range(2)] + [counts]
        for element in list(group.users):
            index = element.args[1]
            assert isinstance(index, int)
            element.replace_all_uses_with(found[index])
            self.graph.erase_node(element)
        self.graph.erase_node(group)

    def _mark(self, value: fx.Node, to: Layout, near: fx.Node) -> fx.Node:
        mark = self.builder.call(exchange_ops.redistribute, value, str(to), at=origin(near))
        set_layout(mark, to)
        return mark


def _place(region: PartitionedRegion, mesh: Mesh) -> None:
    """Layouts anew, of all that follows."""
    for node in region.nodes():
        found = None if node.op == "output" else result(node, region, mesh)
        if found is not None:
            set_layout(node, found)
