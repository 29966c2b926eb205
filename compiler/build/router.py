"""A router -> nodes: the stages of its pipeline in their order.

What the model chooses by may differ from what it weighs by: `choice` are numbers for comparison, `scores`
what the weights of the chosen come from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import fx

from moec.compiler import model_ops
from moec.compiler.graph import value
from moec.dsl.spec import (
    Capacity,
    CorrectionBias,
    ExpertScale,
    Groups,
    Hash,
    Jitter,
    Moe,
    Origin,
    Renormalize,
    RoundRobin,
    RouterStage,
    Scale,
    Sigmoid,
    Sinkhorn,
    Softcap,
    Softmax,
    SparseMixer,
    SqrtSoftplus,
    Top,
)
from moec.runtime.abi.dtypes import wide

from .scope import LayerScope

Function = Callable[..., Any]

SCORES: dict[type, Function] = {
    Softmax: model_ops.softmax,
    Sigmoid: model_ops.sigmoid,
    SqrtSoftplus: model_ops.sqrt_softplus,
}


@dataclass(frozen=True)
class Routing:
    """What a router's pipeline has computed so far. E counts identity experts, too."""

    logits: fx.Node  # (T, E), after softcap and scale
    scores: fx.Node  # (T, E), the logits until a stage scores them
    choice: fx.Node | None = None  # (T, E), what is chosen by if not the scores
    probabilities: fx.Node | None = None  # (T, E), softmax of the logits, where a stage took it
    weights: fx.Node | None = None  # (T, K)
    chosen: fx.Node | None = None  # (T, K) int64
    sent: fx.Node | None = None  # (T, K) int64: where a choice goes, E or more for nowhere


def build_router(scope: LayerScope, x: fx.Node, path: str, moe: Moe) -> Routing:
    """(T, D) -> weights and choices. Scores are wide, whatever dtype the router's matrix has."""
    x = scope.cast(x, value(scope.parameters[f"{path}.router"]).dtype, moe.origin)
    logits = scope.linear(_jittered(scope, x, moe), f"{path}.router", moe.origin)
    logits = scope.cast(logits, wide(value(logits)), moe.origin)
    routing = Routing(logits, logits)
    for stage in moe.router:
        routing = _Stages(scope, path, moe).apply(routing, stage)
    return routing


def _jittered(scope: LayerScope, x: fx.Node, moe: Moe) -> fx.Node:
    """The router's input, with noise in training if it has that stage."""
    jitter = next((stage for stage in moe.router if isinstance(stage, Jitter)), None)
    if jitter is None or not scope.training:
        return x
    key, first = scope.facts["noise"], scope.facts["first"]
    return scope.call(model_ops.jitter, x, key, first, scope.sequence, jitter.eps, at=jitter.origin)


@dataclass(frozen=True)
class _Stages:
    """The stages of one router."""

    scope: LayerScope
    path: str
    moe: Moe

    def apply(self, routing: Routing, stage: RouterStage) -> Routing:
        """The pipeline with one stage more."""
        match stage:
            case Softmax() | Sigmoid() | SqrtSoftplus():
                return self._score(routing, stage)
            case Scale(factor):
                return self._elementwise(routing, model_ops.scaled, factor, stage.origin)
            case Softcap(limit):
                return self._elementwise(routing, model_ops.softcap, limit, stage.origin)
            case CorrectionBias() | Sinkhorn() | Groups():
                return replace(routing, choice=self._choice(routing, stage))
            case Top() | SparseMixer() | RoundRobin() | Hash():
                return self._choose(routing, stage)
            case Renormalize() | ExpertScale():
                return replace(routing, weights=self._weigh(routing, stage))
            case Capacity():
                return self._limit(routing, stage)
            case Jitter():
                return routing  # what it changed is the router's input

    def _score(self, routing: Routing, stage: Softmax | Sigmoid | SqrtSoftplus) -> Routing:
        function = SCORES[type(stage)]
        if routing.weights is not None:
            return replace(routing, weights=self.scope.call(function, routing.weights, at=stage.origin))
        scores = self.scope.call(function, routing.scores, at=stage.origin)
        probabilities = scores if isinstance(stage, Softmax) else None
        return replace(routing, scores=scores, probabilities=probabilities)

    def _elementwise(self, routing: Routing, function: Function, number: float, at: Origin) -> Routing:
        if routing.weights is not None:
            return replace(routing, weights=self.scope.call(function, routing.weights, number, at=at))
        scores = self.scope.call(function, routing.scores, number, at=at)
        scored = routing.scores is not routing.logits
        return replace(routing, scores=scores, logits=routing.logits if scored else scores)

    def _choice(self, routing: Routing, stage: CorrectionBias | Sinkhorn | Groups) -> fx.Node:
        call, before = partial(self.scope.call, at=stage.origin), routing.choice or routing.scores
        match stage:
            case CorrectionBias():
                return call(model_ops.corrected, before, self.scope.parameters[f"{self.path}.correction"])
            case Sinkhorn(iterations):
                return call(model_ops.sinkhorn, routing.logits, self.scope.sequence, iterations)
            case Groups(groups, keep, by, fill):
                number = -math.inf if fill == "minus_inf" else 0.0
                return call(model_ops.in_best_groups, before, groups, keep, by, number)

    def _choose(self, routing: Routing, stage: Top | SparseMixer | RoundRobin | Hash) -> Routing:
        call, scores = partial(self.scope.call, at=stage.origin), routing.scores
        match stage:
            case Top(k) if routing.choice is None:
                weights, chosen = self.scope.builder.unpack(call(model_ops.top, scores, k), 2)
                return replace(routing, weights=weights, chosen=chosen, sent=chosen)
            case SparseMixer(k, jitter):
                both = call(model_ops.sparsemixer, routing.logits, k, jitter)
                weights, chosen = self.scope.builder.unpack(both, 2)
                return replace(routing, weights=weights, chosen=chosen, sent=chosen)
            case Top(k):
                chosen = call(model_ops.best, routing.choice, k)
            case RoundRobin(k):
                positions = self.scope.positions(stage.origin)
                given = [] if positions is None else [positions]
                chosen = call(model_ops.round_robin, scores, self.scope.sequence, k, *given)
            case Hash(k):
                chosen = call(model_ops.hash_experts, self.scope.facts["tokens"], k, self.moe.routed)
        weights = call(model_ops.scores_of, scores, chosen)
        return replace(routing, weights=weights, chosen=chosen, sent=chosen)

    def _weigh(self, routing: Routing, stage: Renormalize | ExpertScale) -> fx.Node:
        call, weights = partial(self.scope.call, at=stage.origin), routing.weights
        match stage:
            case Renormalize(eps, minimum, p):
                return call(model_ops.renormalize, weights, eps, minimum, p)
            case ExpertScale():
                scale = self.scope.parameters[f"{self.path}.expert_scale"]
                return call(model_ops.expert_scale, weights, routing.chosen, scale)

    def _limit(self, routing: Routing, stage: Capacity) -> Routing:
        call, routed = partial(self.scope.call, at=stage.origin), self.moe.routed
        room = call(model_ops.with_room, routing.chosen, self.scope.sequence, routed, stage.factor)
        both = call(model_ops.kept, routing.weights, routing.chosen, room, routed)
        weights, sent = self.scope.builder.unpack(both, 2)
        return replace(routing, weights=weights, sent=sent)
