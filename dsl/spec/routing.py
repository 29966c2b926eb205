"""The mixture of experts: a router as a pipeline of stages, balancing, experts.

A pipeline has one stage that chooses. Before it, stages work on all experts' logits or scores, (T, E); after
it, on the
chosen ones' weights, (T, K).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .components import Ffn, Norm
from .origin import NOWHERE, Origin

# --- before the choice ---


@dataclass(frozen=True)
class Softmax:
    """Probabilities over all experts; after the choice, over the chosen ones."""

    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Sigmoid:
    """Each expert's own score, or after the choice the weight of each chosen one."""

    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class SqrtSoftplus:
    """sqrt(ln(1 + exp(logit)))."""

    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Softcap:
    """limit * tanh(logit / limit)."""

    limit: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Scale:
    """Times `factor`: logits before the choice, weights after it."""

    factor: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class CorrectionBias:
    """A bias of each expert, added for the choice only; weights come from what was there before it.

    With `update`, every step adds update * sign(mean load - load) to it (Wang et al., 2024); it has no
    gradient. Without, it
    stays as it is.
    """

    update: float | None = None
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Groups:
    """Only experts of the `keep` best of `groups` equal groups can be chosen; the others' scores are
    filled."""

    groups: int
    keep: int
    by: Literal["max", "top2_sum"] = "max"
    fill: Literal["minus_inf", "zero"] = "minus_inf"
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Sinkhorn:
    """For the choice only: exp(logits) of one sequence, rows and columns normalised in turns. Clark et al.,
    2022."""

    iterations: int = 8
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Jitter:
    """The router's input times uniform numbers from [1 - eps, 1 + eps], in training. Fedus et al., 2021."""

    eps: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


# --- the choice ---


@dataclass(frozen=True)
class Top:
    """The k best-scored experts of each token."""

    k: int
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class SparseMixer:
    """k picks in turn: the best expert, weighted by a softmax over those within a relative distance of 2 *
    jitter. Phi-3.5-MoE."""

    k: int
    jitter: float = 0.01
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Hash:
    """k different experts by the token's id alone, weighted by their scores. Roller et al., 2021."""

    k: int
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class RoundRobin:
    """k experts by the token's position alone: a forced balance, for measuring."""

    k: int
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


# --- after the choice ---


@dataclass(frozen=True)
class Renormalize:
    """Weights divided by max(their p-norm + eps, minimum) over the chosen experts."""

    eps: float = 0.0
    minimum: float = 0.0
    p: float = 1.0
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class ExpertScale:
    """Times a learned factor of each expert."""

    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Capacity:
    """An expert takes at most ceil(factor * S * k / E) choices of one sequence, in order of position; others
    are dropped.

    `pad`: every expert computes as many rows as it has room for, zeros where there is no token, so that the
    work of all experts is one size.
    """

    factor: float
    pad: bool = False
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


Chooser = Top | SparseMixer | Hash | RoundRobin
RouterStage = (
    Softmax
    | Sigmoid
    | SqrtSoftplus
    | Softcap
    | Scale
    | CorrectionBias
    | Groups
    | Sinkhorn
    | Jitter
    | Chooser
    | Renormalize
    | ExpertScale
    | Capacity
)

# --- balancing by a loss ---


@dataclass(frozen=True)
class AuxLoss:
    """Load-balancing loss E * sum_e f_e p_e (Fedus et al., 2021, eq. 4), as a term of the training objective.

    f_e: choices of expert e per token (sums to k), p_e: mean of softmax(router logits), both over the tokens
    of a
    global micro-batch. `per = "model"` pools the tokens of all MoE layers first, as transformers does; `per =
    "layer"` takes the loss of every layer and adds them, as the paper does. `choices = "softmax"` counts the
    k
    largest logits instead of the experts that the router chose, as transformers does for every router. `over
    = "batch"` takes f_e over the micro-batches of the batch so far (Qiu et al., 2025).
    """

    coefficient: float
    per: Literal["model", "layer"] = "model"
    choices: Literal["router", "softmax"] = "router"
    over: Literal["micro_batch", "batch"] = "micro_batch"
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class SequenceAuxLoss:
    """E / (k S) * sum_e f_e p_e within each sequence, mean over sequences, added over layers. DeepSeek-V3,
    eq. 17-20.

    f_e: choices of expert e in the sequence, p_e: mean of the router's scores over it, each token's made to
    sum to one.
    """

    coefficient: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class ZLoss:
    """mean over tokens of logsumexp(router logits)^2, added over layers. Zoph et al., 2022, eq. 5."""

    coefficient: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


BalanceTerm = AuxLoss | SequenceAuxLoss | ZLoss


# --- the whole ---


@dataclass(frozen=True)
class SharedExperts:
    """`count` FFNs that every token passes, as one of `ffn.width`, the widths of all together.

    Added to the routed output; with `average`, half the sum of both. With `gate`, times the sigmoid of a
    linear of the input.
    """

    ffn: Ffn
    count: int = 1
    gate: bool = False
    average: bool = False
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Moe:
    """A mixture of experts: a linear router, its pipeline, and `experts` FFNs of one shape.

    `identity` more experts give back their input and have no parameters; their ids follow those of the
    others. With `weigh = "input"` a weight
    multiplies an expert's input instead of its output (Llama 4). With `latent`, experts work on a projection
    of the
    input to that width, normed by `latent_norm`; `expert_norm` norms each expert's output before it is
    weighted.
    """

    experts: int
    expert: Ffn
    router: tuple[RouterStage, ...]
    balance: tuple[BalanceTerm, ...] = ()
    shared: SharedExperts | None = None
    router_bias: bool = False
    identity: int = 0
    weigh: Literal["output", "input"] = "output"
    latent: int | None = None
    latent_norm: Norm | None = None
    expert_norm: Norm | None = None
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    @property
    def chooser(self) -> Chooser:
        """The stage that chooses."""
        return next(stage for stage in self.router if isinstance(stage, Chooser))

    @property
    def top_k(self) -> int:
        """How many experts a token uses, identity ones included."""
        return self.chooser.k

    @property
    def routed(self) -> int:
        """How many experts the router scores, identity ones included."""
        return self.experts + self.identity
