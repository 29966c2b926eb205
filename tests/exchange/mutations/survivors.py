"""Which mutations parity does not see, and why: those for which a reason holds, and no others."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from moec.dsl import spec as m

EXACT = 1e-12
"""Smaller numbers are lost in a sum of weights in float32."""


@dataclass(frozen=True)
class Reason:
    """`text` says why none of `mutations`, a pattern of their names, changes a mixture for which `holds`."""

    text: str
    mutations: str
    holds: Callable[[m.Moe, m.Moe], bool]  # the row's mixture, and the mutated one


def reason_for(mutation: str, changes: Iterable[tuple[m.Moe, m.Moe]]) -> Reason | None:
    """Why a mutation, which makes others of mixtures, is not seen; None if it is to be seen."""
    pairs = tuple(changes)
    found = (r for r in REASONS if re.fullmatch(r.mutations, mutation) and all(r.holds(*p) for p in pairs))
    return next(found, None)


# --- conditions ---

_SCORES = (m.Softmax, m.Sigmoid, m.SqrtSoftplus)


def _before(moe: m.Moe) -> tuple[m.RouterStage, ...]:
    return moe.router[: moe.router.index(moe.chooser)]


def _after(moe: m.Moe) -> tuple[m.RouterStage, ...]:
    return moe.router[moe.router.index(moe.chooser) + 1 :]


def _takes_the_largest_logits(moe: m.Moe, *_: m.Moe) -> bool:
    """All that stands before the choice keeps the order of the logits."""
    ordered = all(isinstance(stage, (m.Scale, m.Softcap, *_SCORES)) for stage in _before(moe))
    return ordered and isinstance(moe.chooser, m.Top | m.SparseMixer)


def _has_a_plain_norm(moe: m.Moe, *_: m.Moe) -> bool:
    """Its weights are divided by their norm, and by nothing else."""
    norms = [stage for stage in moe.router if isinstance(stage, m.Renormalize)]
    return any(norm.eps < EXACT and norm.minimum < EXACT for norm in norms)


def _keeps_all_groups(moe: m.Moe, *_: m.Moe) -> bool:
    return all(stage.keep == stage.groups for stage in moe.router if isinstance(stage, m.Groups))


def _has_positive_scores(moe: m.Moe, *_: m.Moe) -> bool:
    kinds = {type(stage) for stage in _before(moe)}
    return bool(kinds & {*_SCORES}) and m.CorrectionBias not in kinds


def _always(*_: m.Moe) -> bool:
    return True


REASONS = (
    Reason(
        "it says how the bias changes after a step, and transformers does not change it",
        r"correction_bias\.update: .+",
        _always,
    ),
    Reason(
        "in float32 the eps is lost beside the sum of the weights; in transformers it is a constant",
        r"renormalize\.eps: 0\.0",
        lambda old, _: all(s.eps < EXACT for s in old.router if isinstance(s, m.Renormalize)),
    ),
    Reason(
        "no sum of weights is as small as the row's minimum, the default of transformers",
        r"renormalize\.minimum: 0\.0",
        lambda old, _: all(s.minimum <= EXACT for s in old.router if isinstance(s, m.Renormalize)),
    ),
    Reason("the row's factor is 1", r"scale (dropped|moved .+)", lambda old, _: m.Scale(1.0) in old.router),
    Reason(
        "the row keeps all groups",
        r"groups( dropped|\.by: .+|\.fill: .+)",
        _keeps_all_groups,
    ),
    Reason(
        "scores are positive, and the groups that are kept hold enough experts: a zero is never chosen",
        r"groups\.fill: .+",
        _has_positive_scores,
    ),
    Reason(
        "the best expert is in the best group",
        r"groups added before the choice",
        lambda old, _: old.top_k == 1 and _takes_the_largest_logits(old),
    ),
    Reason(
        "the router chooses by the order of the logits: its choices are those that transformers counts",
        r"aux_loss\.choices: .+",
        _takes_the_largest_logits,
    ),
    Reason(
        "of the same chosen experts, weights in the same proportions are normalised to the same",
        r"softmax moved (before|after) the choice",
        lambda old, new: _takes_the_largest_logits(old) and _has_a_plain_norm(old),
    ),
    Reason(
        "a score of each logit by itself keeps their order, so it can be taken before the choice or after it",
        r"(sigmoid|sqrt_softplus) moved (before|after) the choice",
        _takes_the_largest_logits,
    ),
    Reason(
        "weights from a softmax over the chosen experts sum to one already",
        r"renormalize added after the choice",
        lambda old, _: any(isinstance(stage, m.Softmax) for stage in _after(old)),
    ),
)
