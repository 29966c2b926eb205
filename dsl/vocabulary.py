"""The words of the language as data: every construct and block, its arguments, defaults and meaning.

The checker binds arguments against these tables, `fmt --explicit` prints their defaults, and the language
reference is tested against them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "component", "position", "qk_norm", "stage", "balance", "optimizer", "schedule", "init", "pattern", "head"
]


@dataclass(frozen=True)
class Param:
    """An argument of a construct, or a setting of a block.

    `default` is text of the language; None where the argument is required. `derived` says that the default
    follows from other values (`default` is then its formula in words). `takes_none` says that `none` is a
    value of its own; elsewhere `none` in an override means the default.
    """

    name: str
    value: str  # what it takes, in words
    default: str | None = None
    derived: bool = False
    takes_none: bool = False
    supported: bool = True

    @property
    def real(self) -> bool:
        """Whether it takes a number that need not be whole."""
        return "number" in self.value and "whole" not in self.value


@dataclass(frozen=True)
class Construct:
    """Something that is called: `gqa(...)`, `top(2)`. With `positional`, its first argument needs no name."""

    name: str
    role: Role
    params: tuple[Param, ...] = ()
    positional: bool = False
    meaning: str = ""
    supported: bool = True

    def param(self, name: str) -> Param | None:
        """Its parameter of this name."""
        return next((p for p in self.params if p.name == name), None)


_COMPONENTS = (
    Construct(
        "rms_norm",
        "component",
        (Param("eps", "positive number", "1e-6"),),
        meaning="x * w / sqrt(mean(x^2) + eps), w of (width,). Zhang and Sennrich, 2019.",
    ),
    Construct(
        "gqa",
        "component",
        (
            Param("heads", "count"),
            Param("kv_heads", "count", "heads", derived=True),
            Param("head_dim", "count, even with rope", "width / heads", derived=True),
            Param("rope", "rope(...) or none", "rope(theta: 10_000)", takes_none=True),
            Param("qkv_bias", "true or false", "false"),
            Param("qk_norm", "per_head(norm), full_width(norm) or none", "none", takes_none=True),
            Param("clip", "positive number or none", "none", takes_none=True),
            Param("window", "count of tokens or none", "none", takes_none=True),
        ),
        meaning="o(softmax(q k^T / sqrt(head_dim)) v) over the position itself and earlier ones; each of "
        "kv_heads keys and values serves heads / kv_heads queries. Ainslie et al., 2023.",
    ),
    Construct(
        "swiglu",
        "component",
        (Param("width", "count"),),
        positional=True,
        meaning="down(silu(gate(x)) * up(x)). Shazeer, 2020.",
    ),
    Construct(
        "moe",
        "component",
        (
            Param("experts", "N of swiglu(W)"),
            Param("shared", "1 of swiglu(W) or none", "none", takes_none=True),
            Param("shared_gate", "true or false", "false"),
            Param("router", "pipeline of stages"),
            Param("balance", "sum of loss terms or none", "none", takes_none=True),
        ),
        meaning="sum over the chosen experts e of weight_e * expert_e(x), plus the shared expert. "
        "Shazeer et al., 2017.",
    ),
    Construct("mla", "component", supported=False),
    Construct("layer_norm", "component", supported=False),
    Construct("geglu", "component", supported=False),
)

_PARTS = (
    Construct(
        "rope",
        "position",
        (Param("theta", "positive number", "10_000"),),
        meaning="rotary positions on all dims of a head, first half against second half. Su et al., 2021.",
    ),
    Construct("yarn", "position", supported=False),
    Construct(
        "per_head",
        "qk_norm",
        (Param("norm", "a binding of rms_norm(...), or rms_norm(...)"),),
        positional=True,
        meaning="the norm over each head's dims, one weight of (head_dim,) for all heads",
    ),
    Construct(
        "full_width",
        "qk_norm",
        (Param("norm", "a binding of rms_norm(...), or rms_norm(...)"),),
        positional=True,
        meaning="the norm over all heads at once, a weight of (heads * head_dim,)",
    ),
    Construct(
        "softmax", "stage", meaning="probabilities over all experts, or over the chosen ones after top"
    ),
    Construct(
        "top", "stage", (Param("k", "count"),), positional=True, meaning="the k best experts of each token"
    ),
    Construct("renormalize", "stage", meaning="the weights of the chosen experts divided by their sum"),
    *(
        Construct(name, "stage", supported=False)
        for name in ("sigmoid", "sqrt_softplus", "correction_bias", "groups", "scale", "softcap", "jitter")
    ),
    Construct(
        "aux_loss",
        "balance",
        (Param("coefficient", "positive number"), Param("per", "model or layer", "model")),
        positional=True,
        meaning="experts * sum_e f_e p_e, f_e the choices of e per token, p_e its mean probability, over "
        "the tokens of all MoE layers (per: model) or summed over layers (per: layer). Fedus et al., 2021.",
    ),
    Construct(
        "z_loss",
        "balance",
        (Param("coefficient", "positive number"),),
        positional=True,
        meaning="mean of logsumexp(router logits)^2 over tokens, summed over layers. Zoph et al., 2022.",
    ),
    Construct("sequence_aux_loss", "balance", supported=False),
    Construct(
        "adamw",
        "optimizer",
        (
            Param("lr", "positive number", "3e-4"),
            Param("betas", "two numbers in [0, 1)", "(0.9, 0.95)"),
            Param("eps", "positive number", "1e-8"),
            Param("weight_decay", "number, at least 0", "0.1"),
        ),
        meaning="decoupled weight decay, on matrices only. Loshchilov and Hutter, 2019.",
    ),
    *(Construct(name, "optimizer", supported=False) for name in ("sgd", "muon", "adafactor", "lion")),
    Construct(
        "cosine",
        "schedule",
        (Param("warmup", "steps", "0"), Param("floor", "number in [0, 1]", "0")),
        meaning="lr times a line from 0 to 1 over warmup, then half a cosine down to floor",
    ),
    Construct(
        "constant",
        "schedule",
        (Param("warmup", "steps", "0"),),
        meaning="lr times a line from 0 to 1 over warmup, then 1",
    ),
    *(Construct(name, "schedule", supported=False) for name in ("linear_decay", "wsd", "inverse_sqrt")),
    Construct(
        "normal", "init", (Param("std", "positive number", "0.02"),), meaning="matrices from N(0, std^2)"
    ),
    Construct(
        "every", "pattern", (Param("n", "count"),), positional=True, meaning="layers i with (i + 1) % n == 0"
    ),
    Construct("linear", "head", meaning="the output projection, a matrix (vocab, width)"),
)

CONSTRUCTS: dict[str, Construct] = {construct.name: construct for construct in (*_COMPONENTS, *_PARTS)}


def of_role(*roles: Role, supported: bool = True) -> list[str]:
    """The names of some roles, those that can be compiled or those that cannot yet."""
    found = (x for x in CONSTRUCTS.values() if x.role in roles and x.supported == supported)
    return [construct.name for construct in found]


MODEL = (
    Param("vocab", "count"),
    Param("width", "count"),
    Param("context", "count of tokens"),
    Param("init", "normal(std: S)", "normal(std: 0.02)"),
)
_DTYPES = "fp32"
BLOCKS: dict[str, tuple[Param, ...]] = {
    "parallel": (
        Param("expert", "degree or rest", "1"),
        Param("shard", "degree or rest", "1"),
        Param("replicate", "degree or rest", "1"),
        Param("expert_shard", "degree or rest", "rest", takes_none=False),
        *(
            Param(name, "degree", supported=False)
            for name in ("tensor", "pipeline", "sequence", "expert_tensor")
        ),
    ),
    "precision": tuple(Param(name, _DTYPES, "fp32") for name in ("compute", "params", "reduce", "router")),
    "memory": (
        Param("recompute", "none or full", "none", takes_none=True),
        Param("imbalance", "number", supported=False),
        Param("device", "bytes", supported=False),
        Param("offload", "none or optimizer", supported=False),
    ),
    "train": (
        Param("sequence", "count of tokens", "context, at most 4096", derived=True),
        Param("batch", "count of tokens, or of sequences", "8 sequences"),
        Param("steps", "count", "1000, unless epochs is given", derived=True),
        Param("epochs", "count or none", "none", takes_none=True),
        Param("micro_batches", "count", "1"),
        Param("optimizer", "adamw(...)", "adamw()"),
        Param("schedule", "cosine(...) or constant(...)", "cosine()"),
        Param("clip", "positive number or none", "1.0", takes_none=True),
        Param("seed", "whole number", "0"),
    ),
}
DEFAULT_SEQUENCE = 4096
DEFAULT_STEPS = 1000
TOP_LEVEL = ("model", *BLOCKS, "checkpoint")
RESERVED = frozenset(("x", "layer", "layers", "embed", "logits", "none", "true", "false", "rest", "_"))


def takes_real(step: str) -> bool:
    """Whether a path that ends in `step` leads to a number that need not be whole."""
    if step in of_role("balance"):
        return True
    every = [*(p for construct in CONSTRUCTS.values() for p in construct.params), *BLOCKS["train"]]
    return any(param.name == step and param.real for param in every)


def find(params: Iterable[Param], name: str) -> Param | None:
    """The parameter of this name."""
    return next((param for param in params if param.name == name), None)
