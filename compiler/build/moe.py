"""A mixture of experts -> nodes: router, dispatch, expert products, combine, shared expert, statistics."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import fx

from moec.compiler import model_ops
from moec.compiler.errors import CompileError
from moec.dsl.spec import AuxLoss, Moe, Origin, Renormalize, RouterStage, Softmax, Top, ZLoss

from .feed_forward import build_swiglu
from .scope import LayerScope


@dataclass(frozen=True)
class _Routing:
    """What a router's pipeline has computed so far."""

    logits: fx.Node  # (T, E)
    scores: fx.Node  # (T, E), the logits until a stage scores them
    probabilities: fx.Node | None = None  # (T, E), softmax of the logits, where a stage took it
    weights: fx.Node | None = None  # (T, K)
    chosen: fx.Node | None = None  # (T, K)


def build_moe(scope: LayerScope, x: fx.Node, path: str, moe: Moe) -> fx.Node:
    """(T, D) -> (T, D)."""
    logits = scope.linear(x, f"{path}.router", moe.origin)
    routing = _Routing(logits, logits)
    for stage in moe.router:
        routing = _route(scope, routing, stage)
    assert routing.weights is not None
    assert routing.chosen is not None
    y = _experts(scope, x, path, moe, routing.weights, routing.chosen)
    _statistics(scope, path, moe, routing)
    return _add_shared(scope, x, y, path, moe)


def _route(scope: LayerScope, routing: _Routing, stage: RouterStage) -> _Routing:
    at = stage.origin
    match stage:
        case Softmax() if routing.weights is not None:
            return replace(routing, weights=scope.call(model_ops.softmax, routing.weights, at=at))
        case Softmax():
            probabilities = scope.call(model_ops.softmax, routing.scores, at=at)
            return replace(routing, scores=probabilities, probabilities=probabilities)
        case Top(k):
            both = scope.call(model_ops.top, routing.scores, k, at=at)
            weights, chosen = scope.builder.unpack(both, 2)
            return replace(routing, weights=weights, chosen=chosen)
        case Renormalize():
            weights = scope.call(model_ops.renormalize, routing.weights, at=at)
            return replace(routing, weights=weights)
    raise CompileError("not supported yet", at)


def _experts(
    scope: LayerScope, x: fx.Node, path: str, moe: Moe, weights: fx.Node, chosen: fx.Node
) -> fx.Node:
    at = moe.expert.origin
    grouped = scope.call(model_ops.group_by_expert, chosen, moe.experts, at=moe.origin)
    order, inverse, counts = scope.builder.unpack(grouped, 3)
    rows = scope.call(model_ops.dispatch, x, order, inverse, moe.top_k, at=moe.origin)
    gate, up = (_expert_mm(scope, rows, f"{path}.expert.{{}}.{name}", counts, at) for name in ("gate", "up"))
    hidden = scope.call(model_ops.silu_gate, gate, up, at=at)
    out = _expert_mm(scope, hidden, f"{path}.expert.{{}}.down", counts, at)
    return scope.call(model_ops.combine, out, weights, order, inverse, at=moe.origin)


def _expert_mm(scope: LayerScope, rows: fx.Node, path: str, counts: fx.Node, at: Origin) -> fx.Node:
    return scope.call(model_ops.expert_mm, rows, scope.parameters[path], counts, at=at)


def _add_shared(scope: LayerScope, x: fx.Node, y: fx.Node, path: str, moe: Moe) -> fx.Node:
    if moe.shared is None:
        return y
    at = moe.shared.origin
    shared = build_swiglu(scope, x, f"{path}.shared", at)
    if moe.shared.gate:
        gate = scope.linear(x, f"{path}.shared_gate", at)
        shared = scope.call(model_ops.sigmoid_gate, shared, gate, at=at)
    return scope.call(model_ops.add, y, shared, at=at)


def _statistics(scope: LayerScope, path: str, moe: Moe, routing: _Routing) -> None:
    """Publish the load, and add to the statistics that the balance terms carry through the chain."""
    sequences, facts = scope.facts["sequences"], scope.facts
    load = scope.call(
        model_ops.expert_load, routing.chosen, sequences, scope.sequence, moe.experts, at=moe.origin
    )
    scope.loads[f"{path}.load"] = (load, moe.experts)
    for term in moe.balance:
        at = term.origin
        match term:
            case AuxLoss():
                # transformers and Megatron take softmax probabilities here whatever the router's scores are.
                probabilities = routing.probabilities or scope.call(model_ops.softmax, routing.logits, at=at)
                sums = scope.call(model_ops.probability_sum, probabilities, sequences, scope.sequence, at=at)
                if term.per == "model":
                    _carry(scope, "choices", load, at)
                    _carry(scope, "probabilities", sums, at)
                else:
                    micro, batch = facts["micro_tokens"], facts["batch_tokens"]
                    loss = scope.call(model_ops.balance_loss, load, sums, 1, micro, batch, at=at)
                    _carry(scope, "aux", loss, at)
            case ZLoss():
                z = scope.call(
                    model_ops.square_logsumexp_sum, routing.logits, sequences, scope.sequence, at=at
                )
                _carry(scope, "z", z, at)


def _carry(scope: LayerScope, name: str, x: fx.Node, at: Origin) -> None:
    scope.chain[name] = scope.call(model_ops.accumulate, scope.chain[name], x, at=at)
