"""Small models as texts of the language, one construct apart, for tests of compiler and runtime.

spec = small_spec("shared", expert=2, shard=4)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention_variants import ATTENTION_VARIANTS
from moe_variants import MOE_VARIANTS
from moec.dsl import Spec, load_text
from moec.dsl.parameters import model_parameters
from moec.dsl.spec import ParallelSpec
from moec.runtime.draw import normal

VOCAB, SEQUENCE = 29, 6

_TEXT = """\
model small {{
    vocab   = 29
    width   = 16
    context = 12
    init    = normal(std: 0.1)

    norm      = {norm}
    attention = {mixer}({heads}, {attention})
    dense     = {dense}
    experts   = moe(
        experts: {experts} of {network},
        {moe}
        router:  {router},
        balance: {balance},
    )

{embed}    layers {layers} {{
        {layer}
    }}

    logits = {logits}
}}

memory {{ recompute = {recompute} }}

train {{
    sequence      = 6
    batch         = {sequences} sequences
    micro_batches = {micro_batches}
    steps         = 5
    optimizer     = adamw(lr: 1e-2)
}}
"""

_PLAIN = {
    "norm": "rms_norm(eps: 1e-5)",
    "mixer": "gqa",
    "heads": "heads: 4, kv_heads: 2, head_dim: 4",
    "attention": "rope: rope(theta: 100)",
    "experts": "4",
    "network": "swiglu(12)",
    "dense": "swiglu(20)",
    "moe": "",
    "router": "softmax | top(2) | renormalize",
    "balance": "aux_loss(0.02)",
    "embed": "",
    "layers": "2",
    "layer": "x += attention(norm(x))\n        x += {ffn}(norm(x))",
    "logits": "linear(norm(x))",
    "ffn": "experts",
    "recompute": "none",
    "sequences": "5",
    "micro_batches": "1",
}

VARIANTS: dict[str, dict[str, str]] = {
    "mixtral": {},
    "shared": {"moe": "shared: 1 of swiglu(8),"},
    "gated": {"moe": "shared: 1 of swiglu(8), shared_gate: true,", "attention": "qkv_bias: true"},
    "head norm": {"attention": "qk_norm: per_head(norm)"},
    "full norm": {"attention": "qk_norm: full_width(norm), clip: 0.5"},
    "window": {"attention": "window: 3"},
    "no rope": {"attention": "rope: none"},
    "no gradient of k_bias": {"attention": "rope: none, qkv_bias: true"},
    "no gradient of the router": {"router": "softmax | top(1) | renormalize", "balance": "none"},
    "dense layers": {"layers": "3", "ffn": "match layer { 1 => dense, _ => experts }"},
    "no experts": {"ffn": "dense"},
    "softmax after top": {"router": "top(2) | softmax"},
    "not renormalized": {"router": "softmax | top(3)"},
    "one choice": {"router": "softmax | top(1)"},
    "per layer": {"balance": "aux_loss(0.02, per: layer)"},
    "z": {"balance": "aux_loss(0.02) + z_loss(0.01)"},
    "z alone": {"balance": "z_loss(0.01)"},
    "no balance": {"balance": "none"},
    "uneven experts": {"experts": "5"},
    "micro-batches": {"micro_batches": "2", "sequences": "6"},
    "tied": {"logits": "linear(norm(x), tied: true)"},
    "ends": {
        "embed": "    x = 3.5 * norm(embed(tokens))\n\n",
        "logits": "softcap(linear(norm(x), tied: true, bias: true) / 2, 3)",
    },
    "parallel": {"layer": "h = norm(x)\n        x += 0.5 * attention(h) + experts(h) / 3"},
    "shortcut": {
        "layer": "h = experts(norm(x))\n        x += attention(norm(x))\n        x += dense(norm(x)) + h"
    },
    "correction": {
        "router": "sigmoid | correction_bias(update: 0.01) | top(2) | renormalize",
        "balance": "none",
    },
    "fixed correction": {"router": "softmax | correction_bias | top(2)"},
    "hash": {"router": "sigmoid | hash(2) | renormalize"},
    "jitter": {"router": "jitter(0.3) | softmax | top(2) | renormalize"},
    "post-norm": {"layer": "x = norm(x + attention(x))\n        x += norm(experts(norm(x)))"},
    **ATTENTION_VARIANTS,
    **MOE_VARIANTS,
}
"""Name -> what is different from a small Mixtral."""


def small_text(variant: str = "mixtral", **changes: str) -> str:
    """The text of a variant, with pieces of it changed further."""
    parts = _PLAIN | VARIANTS[variant] | changes
    return _TEXT.format(**(parts | {"layer": parts["layer"].format(**parts)}))


def small_spec(
    variant: str = "mixtral",
    expert: int = 1,
    shard: int = 1,
    replicate: int = 1,
    expert_shard: int | None = None,
    **changes: str,
) -> Spec:
    """A variant at some degrees."""
    parallel = ParallelSpec(expert=expert, shard=shard, replicate=replicate, expert_shard=expert_shard)
    return replace(load_text(small_text(variant, **changes), "small.moe"), parallel=parallel)


def weights_of(spec: Spec, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Every parameter by full name, all of them random; norms around one."""
    found: dict[str, Tensor] = {}
    for region, parameter in model_parameters(spec.model):
        for name in parameter.names(region):
            count = int(np.prod(parameter.shape))
            drawn = normal(3, name, 0, count, 0.3, dtype).view(parameter.shape)
            found[name] = drawn + 1.0 if parameter.init == "ones" else drawn
    return found


def batch_of(spec: Spec, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Tokens and targets (sequences, sequence) int64; some targets bear no loss."""
    numbers = np.random.default_rng(seed)
    shape = (spec.train.batch_sequences, spec.train.sequence)
    tokens, targets = (torch.from_numpy(numbers.integers(0, spec.model.vocab, shape)) for _ in range(2))
    targets[:, ::4] = -100
    return tokens, targets


def relative(found: Any, expected: Tensor) -> float:
    """The largest difference, relative to the largest element."""
    scale = expected.abs().max().item() if expected.numel() else 0.0
    difference = (found - expected).abs().max().item() if expected.numel() else 0.0
    return float(difference / max(scale, 1e-300)) if difference else 0.0
