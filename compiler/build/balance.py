"""What a mixture of experts adds to the statistics that travel through the chain, for its balance terms."""

from __future__ import annotations

from functools import partial

from torch import fx

from moec.compiler import model_ops
from moec.dsl.spec import AuxLoss, Capacity, Moe, Origin, SequenceAuxLoss, ZLoss

from .router import Routing
from .scope import LayerScope


def add_statistics(scope: LayerScope, path: str, moe: Moe, routing: Routing) -> None:
    """Publish what shows how the router does, and add what each balance term counts."""
    load = _load(scope, routing.chosen, moe, moe.origin)
    scope.loads[f"{path}.load"] = (load, moe.routed)
    _publish_dropped(scope, path, moe, routing)
    scope.means[f"{path}.entropy"] = _entropy(scope, moe, routing)
    for term in moe.balance:
        match term:
            case AuxLoss():
                _add_aux(scope, path, term, moe, routing, load)
            case SequenceAuxLoss():
                _add_sequence_aux(scope, term, routing)
            case ZLoss():
                sums = model_ops.square_logsumexp_sum
                z = scope.call(sums, routing.logits, scope.facts["sequences"], scope.sequence, at=term.origin)
                _carry(scope, "z", z, term.origin)


def _load(scope: LayerScope, chosen: fx.Node | None, moe: Moe, at: Origin) -> fx.Node:
    sequences, sequence = scope.facts["sequences"], scope.sequence
    return scope.call(model_ops.expert_load, chosen, sequences, sequence, moe.routed, at=at)


def _publish_dropped(scope: LayerScope, path: str, moe: Moe, routing: Routing) -> None:
    """What found no room, where a stage limits it."""
    limit = next((stage for stage in moe.router if isinstance(stage, Capacity)), None)
    if limit is not None:
        counted = (routing.sent, scope.facts["sequences"], scope.sequence, moe.routed)
        scope.loads[f"{path}.dropped"] = (scope.call(model_ops.dropped, *counted, at=limit.origin), 2)


def _entropy(scope: LayerScope, moe: Moe, routing: Routing) -> fx.Node:
    """This rank's summand of the mean entropy of the router's probabilities.

    They are the scores over all experts, softmax, sigmoid or another, divided by their sum; the softmax of
    the logits where the router scores no more than the chosen ones, or none.
    """
    call, facts = partial(scope.call, at=moe.origin), scope.facts
    scored = routing.scores is not routing.logits
    scores = routing.scores if scored else call(model_ops.softmax, routing.logits)
    sums = call(model_ops.entropy_sum, scores, facts["sequences"], scope.sequence)
    return call(model_ops.per_token, sums, facts["batch_tokens"])


def _add_aux(scope: LayerScope, path: str, term: AuxLoss, moe: Moe, routing: Routing, load: fx.Node) -> None:
    call, facts = partial(scope.call, at=term.origin), scope.facts
    # transformers and Megatron take softmax probabilities here whatever the router's scores are.
    probabilities = routing.probabilities or call(model_ops.softmax, routing.logits)
    if term.choices == "softmax":
        load = _load(scope, call(model_ops.best, probabilities, moe.top_k), moe, term.origin)
    tokens = facts["micro_tokens"]
    if term.over == "batch":
        load, tokens = call(model_ops.accumulate, load, facts[f"{path}.earlier"]), facts["seen_tokens"]
        scope.counted[f"{path}.counted"] = (load, moe.routed)
    sums = call(model_ops.probability_sum, probabilities, facts["sequences"], scope.sequence)
    if term.per == "model":
        _carry(scope, "choices", load, term.origin)
        _carry(scope, "probabilities", sums, term.origin)
    else:
        loss = call(model_ops.balance_loss, load, sums, 1, tokens, facts["batch_tokens"])
        _carry(scope, "aux", loss, term.origin)


def _add_sequence_aux(scope: LayerScope, term: SequenceAuxLoss, routing: Routing) -> None:
    facts = scope.facts
    loss = scope.call(
        model_ops.sequence_balance_loss,
        routing.chosen,
        routing.scores,
        facts["sequences"],
        scope.sequence,
        facts["batch_tokens"],
        at=term.origin,
    )
    _carry(scope, "sequence_aux", loss, term.origin)


def _carry(scope: LayerScope, name: str, x: fx.Node, at: Origin) -> None:
    scope.chain[name] = scope.call(model_ops.accumulate, scope.chain[name], x, at=at)
