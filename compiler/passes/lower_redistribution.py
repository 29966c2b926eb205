"""lower_redistribution: redistribution marks -> collectives.

    partial(a) -> whole            %s = all_reduce(%x, a)
    batch -> at experts(a)         counts first, once for all that one routing sends:
                                       %arriving = exchange_counts(%counts, n, a)
                                       %send = rows_by_member(%counts, n)
                                       %receive = rows_by_member(%arriving, n)
                                       %received = total(%receive)
                                       %order, %back = group_received(%arriving, %received)
                                   then rows:   %r = all_to_all(%rows, %send, %receive, %received, a)
                                                %x = permute_rows(%r, %order, %back)
                                   or counts:   %x = rows_by_expert(%arriving)
    at experts(a) -> batch         %r = permute_rows(%out, %back, %order)
                                   %x = all_to_all(%r, %receive, %send, N, a)
    batch -> shuffled(a)           %order, %inverse = shuffle_order(%shuffle, %first, T)
                                   %x = shuffle(%x, %order, %inverse, n, a), and back with unshuffle
    batch -> gathered(a)           %x = gather_rows(%x, n, a)
    summand of gathered -> batch   %y = scatter_sums(%y, n, a)

Of the N rows here, only those of experts travel, which come first; the rest comes back as zeros.

After it the region is closed: no edge joins two layouts.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from moec.compiler import exchange_ops, model_ops
from moec.compiler.errors import InternalCompilerError
from moec.compiler.graph import Builder, PartitionedRegion, component, layout, origin, set_layout, value
from moec.compiler.layout import AtExperts, Batch, Gathered, Layout, Partial, Shuffled, Whole
from moec.compiler.values import compute_values
from moec.dsl.spec import Origin
from moec.runtime.abi.mesh import Mesh

from .route_tokens import FIRST, SHUFFLE


@dataclass(frozen=True)
class _Exchange:
    """The nodes that describe one routing's exchange over `axis`."""

    axis: str
    arriving: fx.Node
    send: fx.Node
    receive: fx.Node
    received: fx.Node
    order: fx.Node
    back: fx.Node


def lower_redistribution(region: PartitionedRegion, mesh: Mesh) -> None:
    """Edit `region` in place."""
    lowering = _Lowering(region, mesh)
    for node in list(region.nodes()):
        if node.target is exchange_ops.redistribute:
            with region.graph.inserting_before(node):
                new = lowering.lower(node)
            node.replace_all_uses_with(new)
            region.graph.erase_node(node)


class _Lowering:
    def __init__(self, region: PartitionedRegion, mesh: Mesh) -> None:
        self.builder = Builder(region.graph, region.fake)
        self.mesh = mesh
        self.region = region
        self.exchanges: dict[fx.Node, _Exchange] = {}
        self.order: tuple[fx.Node, ...] = ()

    def lower(self, mark: fx.Node) -> fx.Node:
        source = mark.args[0]
        assert isinstance(source, fx.Node)
        self.builder.component = component(mark)
        at = origin(mark)
        match layout(source), layout(mark):
            case Partial(axis), Whole():
                return self._call(exchange_ops.all_reduce, source, axis, at=at, to=Whole())
            case Batch() | Shuffled(), AtExperts(axis):
                return self._to_experts(source, axis, at)
            case AtExperts(axis), Batch() | Shuffled():
                (combine,) = mark.users
                return self._from_experts(source, combine, axis, at)
            case Batch(), Shuffled(axis):
                return self._shuffle(source, axis, at)
            case Shuffled(axis), Batch():
                return self._unshuffle(source, axis, at)
            case Batch(), Gathered(axis) as there:
                rows = self._shuffle(source, axis, at) if there.shuffled else source
                return self._call(exchange_ops.gather_rows, rows, self.mesh.size(axis), axis, at=at, to=there)
            case Gathered(axis, shuffled, True), Batch():
                to = Shuffled(axis) if shuffled else Batch()
                compute_values(self.region, before=mark)  # of as many rows as have been gathered since
                sums = self._call(exchange_ops.scatter_sums, source, self.mesh.size(axis), axis, at=at, to=to)
                return self._unshuffle(sums, axis, at) if shuffled else sums
            case before, after:
                raise InternalCompilerError(
                    f"no redistribution from {before} to {after}: {mark.format_node()}"
                )

    def _to_experts(self, source: fx.Node, axis: str, at: Origin) -> fx.Node:
        exchange = self._exchange(_routing(source), axis, at)
        there = AtExperts(axis)
        if source.target is operator.getitem:
            return self._call(exchange_ops.rows_by_expert, exchange.arriving, at=at, to=there)
        moved = self._call(
            exchange_ops.all_to_all,
            source,
            exchange.send,
            exchange.receive,
            exchange.received,
            axis,
            at=at,
            to=there,
        )
        return self._call(exchange_ops.permute_rows, moved, exchange.order, exchange.back, at=at, to=there)

    def _from_experts(self, source: fx.Node, combine: fx.Node, axis: str, at: Origin) -> fx.Node:
        exchange = self._exchange(_routing(combine), axis, at)
        order = combine.args[2]
        assert isinstance(order, fx.Node)
        rows = value(order).shape[0]
        by_source = self._call(
            exchange_ops.permute_rows, source, exchange.back, exchange.order, at=at, to=AtExperts(axis)
        )
        return self._call(
            exchange_ops.all_to_all,
            by_source,
            exchange.receive,
            exchange.send,
            rows,
            axis,
            at=at,
            to=layout(exchange.send),
        )

    def _shuffle(self, source: fx.Node, axis: str, at: Origin) -> fx.Node:
        ranks = self.mesh.size(axis)
        return self._call(
            exchange_ops.shuffle, source, *self._order(at), ranks, axis, at=at, to=Shuffled(axis)
        )

    def _unshuffle(self, source: fx.Node, axis: str, at: Origin) -> fx.Node:
        ranks = self.mesh.size(axis)
        return self._call(exchange_ops.unshuffle, source, *self._order(at), ranks, axis, at=at, to=Batch())

    def _order(self, at: Origin) -> tuple[fx.Node, ...]:
        """The one permutation of a region's tokens, and its inverse, made at its first use."""
        if not self.order:
            inputs = dict(zip(self.region.inputs, self.region.input_nodes(), strict=True))
            first, key = inputs[FIRST], inputs[SHUFFLE]
            tokens = value(inputs["x"]).shape[0]
            both = self._call(exchange_ops.shuffle_order, key, first, tokens, at=at, to=Batch())
            self.order = tuple(self._call(operator.getitem, both, i, at=at, to=Batch()) for i in range(2))
        return self.order

    def _exchange(self, routing: fx.Node, axis: str, at: Origin) -> _Exchange:
        """The exchange of one `group_by_expert`, made at its first use."""
        if routing not in self.exchanges:
            self.exchanges[routing] = self._make_exchange(routing, axis, at)
        return self.exchanges[routing]

    def _make_exchange(self, routing: fx.Node, axis: str, at: Origin) -> _Exchange:
        ranks, here, there = self.mesh.size(axis), layout(routing), AtExperts(axis)
        counts = next(user for user in routing.users if user.args[1] == 2)
        arriving = self._call(exchange_ops.exchange_counts, counts, ranks, axis, at=at, to=there)
        send = self._call(exchange_ops.rows_by_member, counts, ranks, at=at, to=here)
        receive = self._call(exchange_ops.rows_by_member, arriving, ranks, at=at, to=there)
        received = self._call(exchange_ops.total, receive, at=at, to=there)
        both = self._call(exchange_ops.group_received, arriving, received, at=at, to=there)
        order, back = (self._call(operator.getitem, both, i, at=at, to=there) for i in range(2))
        return _Exchange(axis, arriving, send, receive, received, order, back)

    def _call(self, function: Callable[..., Any], *args: Any, at: Origin, to: Layout) -> fx.Node:
        node = self.builder.call(function, *args, at=at)
        set_layout(node, to)
        return node


def _routing(node: fx.Node) -> fx.Node:
    """The `group_by_expert` that rows on their way, a combine or an element of it go back to."""
    if node.target is model_ops.group_by_expert:
        return node
    positions = {
        model_ops.dispatch: 1,
        model_ops.weigh_rows: 2,
        model_ops.combine: 2,
        operator.getitem: 0,
    }
    source = node.args[positions[node.target]]  # type: ignore[index]
    assert isinstance(source, fx.Node)
    return _routing(source)
