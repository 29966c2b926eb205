"""A mixture of experts -> nodes: router, dispatch, expert products, combine, shared experts, statistics."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import fx

from moec.compiler import model_ops
from moec.compiler.graph import value
from moec.dsl.spec import Capacity, Moe

from .balance import add_statistics
from .feed_forward import build_ffn, build_network
from .norms import build_norm
from .router import Routing, build_router
from .scope import LayerScope


def build_moe(scope: LayerScope, x: fx.Node, path: str, moe: Moe) -> fx.Node:
    """(T, D) -> (T, D)."""
    with scope.builder.within(f"{path}.router"):
        routing = build_router(scope, x, path, moe)
        assert routing.weights is not None
        routing = replace(routing, weights=scope.cast(routing.weights, value(x).dtype, moe.origin))
    if moe.latent is None:
        y = _experts(scope, x, path, moe, routing)
    else:
        y = _experts(scope, _latent(scope, x, path, moe), path, moe, routing)
        y = scope.linear(y, f"{path}.latent_up", moe.origin)
    if moe.identity:
        y = _add_identity(scope, x, y, moe, routing)
    add_statistics(scope, path, moe, routing)
    return _add_shared(scope, x, y, path, moe)


def _latent(scope: LayerScope, x: fx.Node, path: str, moe: Moe) -> fx.Node:
    """(T, D) -> (T, latent)."""
    down = scope.linear(x, f"{path}.latent_down", moe.origin)
    if moe.latent_norm is None:
        return down
    return build_norm(scope, down, f"{path}.latent_norm", moe.latent_norm, moe.latent_norm.origin)


def _experts(scope: LayerScope, x: fx.Node, path: str, moe: Moe, routing: Routing) -> fx.Node:
    """The weighted sum of what the experts with parameters give."""
    call = partial(scope.call, at=moe.origin)
    tail = bool(moe.identity) or any(isinstance(stage, Capacity) for stage in moe.router)
    grouped = call(model_ops.group_by_expert, routing.sent, moe.experts, moe.experts)
    order, inverse, counts = scope.builder.unpack(grouped, 3)
    rows = call(model_ops.dispatch, x, order, inverse, moe.top_k)
    weights = routing.weights
    if moe.weigh == "input":
        rows = call(model_ops.weigh_rows, rows, weights, order, inverse)
        weights = call(model_ops.ones_of_sent, weights, routing.sent, moe.experts)
    elif tail:
        weights = call(model_ops.weights_of_sent, weights, routing.sent, moe.experts)
    limit = next((stage for stage in moe.router if isinstance(stage, Capacity) and stage.pad), None)
    if limit is None:
        out = _network(scope, rows, path, moe, counts, tail)
    else:
        out = _padded(scope, rows, path, moe, counts, limit)
    return call(model_ops.combine, out, weights, order, inverse)


def _padded(
    scope: LayerScope, rows: fx.Node, path: str, moe: Moe, counts: fx.Node, limit: Capacity
) -> fx.Node:
    """Every expert computes as many rows as it has room for."""
    call = partial(scope.call, at=limit.origin)
    sequences = value(rows).shape[0] // (moe.top_k * scope.sequence)
    room = sequences * model_ops.room(scope.sequence, moe.top_k, moe.routed, limit.factor)
    padded = call(model_ops.pad_experts, rows, counts, room)
    out = _network(scope, padded, path, moe, call(model_ops.padded_counts, counts, room), False)
    return call(model_ops.unpad_experts, out, counts, room, rows)


def _network(scope: LayerScope, rows: fx.Node, path: str, moe: Moe, counts: fx.Node, tail: bool) -> fx.Node:
    """Every row through its expert; `tail`: some rows may go to none."""

    def linear(x: fx.Node, name: str) -> fx.Node:
        at, full = moe.expert.origin, f"{path}.expert.{{}}.{name}"
        y = scope.call(model_ops.expert_mm, x, scope.parameters[full], counts, tail, at=at)
        bias = scope.parameters.get(f"{full}_bias")
        if bias is None:
            return y
        return scope.call(model_ops.expert_add, y, scope.cast(bias, value(y).dtype, at), counts, at=at)

    with scope.builder.within(f"{path}.expert"):
        out = build_network(scope, rows, moe.expert, linear)
        norm = moe.expert_norm
        return out if norm is None else build_norm(scope, out, f"{path}.expert_norm", norm, norm.origin)


def _add_identity(scope: LayerScope, x: fx.Node, y: fx.Node, moe: Moe, routing: Routing) -> fx.Node:
    """Identity experts are on every rank: what they give is made where the token is."""
    own = scope.call(model_ops.identity, x, routing.weights, routing.sent, moe.experts, at=moe.origin)
    return scope.call(model_ops.add, y, own, at=moe.origin)


def _add_shared(scope: LayerScope, x: fx.Node, y: fx.Node, path: str, moe: Moe) -> fx.Node:
    if moe.shared is None:
        return y
    at = moe.shared.origin
    with scope.builder.within(f"{path}.shared"):
        shared = build_ffn(scope, x, f"{path}.shared", moe.shared.ffn)
        if moe.shared.gate:
            gate = scope.linear(x, f"{path}.shared_gate", at)
            shared = scope.call(model_ops.sigmoid_gate, shared, gate, at=at)
    both = scope.call(model_ops.add, y, shared, at=at)
    return scope.call(model_ops.scaled, both, 0.5, at=at) if moe.shared.average else both
