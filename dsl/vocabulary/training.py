"""The blocks of a file and their settings; optimizers, schedules; small words of a model."""

from __future__ import annotations

from .construct import Construct, Param
from .data import DATA, DATA_WORDS
from .dispatch import DISPATCH, DISPATCH_WORDS
from .memory import MEMORY, MEMORY_WORDS
from .numerics import NUMERICS, NUMERICS_WORDS

WORDS = (
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
    *DISPATCH_WORDS,
    *MEMORY_WORDS,
    *DATA_WORDS,
    *NUMERICS_WORDS,
    Construct(
        "saved",
        "saving",
        (
            Param("every", "steps", "1000", meaning="how many lie between two checkpoints"),
            Param("keep", "count", "3", meaning="how many checkpoints are kept, the newest"),
        ),
        meaning="the whole training state goes to disk while training goes on; the last state too",
    ),
    Construct(
        "normal", "init", (Param("std", "positive number", "0.02"),), meaning="matrices from N(0, std^2)"
    ),
    Construct(
        "every",
        "pattern",
        (Param("n", "count"), Param("offset", "layer", "n - 1", derived=True)),
        positional=True,
        meaning="layers offset, offset + n, offset + 2 n, ..., counted from 0.",
        users="llama4, cohere2_moe, gpt_oss: which layers see everything, or have experts",
    ),
    Construct(
        "linear",
        "function",
        (
            Param("x", "value"),
            Param("tied", "true or false", "false", meaning="the matrix is that of the embedding"),
            Param("bias", "true or false", "false", meaning="whether `logits_bias`, of (vocab,), is added"),
        ),
        positional=True,
        meaning="in `logits = linear(norm(x))`: the output projection, a matrix `logits` of (vocab, width).",
        users="tied: cohere2_moe, ernie4_5_moe; bias: phimoe",
    ),
    Construct(
        "embed",
        "function",
        (Param("tokens", "tokens"),),
        positional=True,
        meaning="in `x = embed(tokens)`: the tokens' rows of the embedding, a matrix `embed` of (vocab, "
        "width).",
        users="scaled: granitemoe, afmoe, gemma4; normed: muse_spark, inkling",
    ),
    Construct(
        "sqrt",
        "function",
        (Param("x", "number"),),
        positional=True,
        meaning="the square root of a number, wherever a number can stand.",
        users="afmoe and gemma4: `x = sqrt(width) * embed(tokens)`",
    ),
)

MODEL = (
    Param("vocab", "count"),
    Param("width", "count"),
    Param("context", "count of tokens"),
    Param("init", "normal(std: S)", "normal(std: 0.02)", takes=("init",)),
)
_FP64 = "fp32, or fp64 where compute is"
BLOCKS: dict[str, tuple[Param, ...]] = {
    "parallel": (
        Param("expert", "degree or rest", "1"),
        Param("shard", "degree or rest", "1"),
        Param("replicate", "degree or rest", "1"),
        Param("expert_shard", "degree or rest", "rest", takes_none=False),
        DISPATCH,
        *(
            Param(name, "degree", supported=False)
            for name in ("tensor", "pipeline", "sequence", "expert_tensor")
        ),
    ),
    "precision": (
        Param("compute", "fp32, bf16 or fp64", "fp32", meaning="of matrices, activations, their gradients"),
        Param("params", "fp32 or fp64", _FP64, derived=True, meaning="of what the optimizer changes"),
        Param("reduce", "fp32, bf16 or fp64", _FP64, derived=True, meaning="of gradients summed over ranks"),
        Param("router", "fp32, bf16 or fp64", _FP64, derived=True, meaning="of tokens times its matrix"),
        Param("optimizer", "fp32, bf16 or fp64", _FP64, derived=True, meaning="of moments of gradients"),
    ),
    "memory": MEMORY,
    "train": (
        Param("sequence", "count of tokens", "context, at most 4096", derived=True),
        Param("batch", "count of tokens, or of sequences", "8 sequences"),
        Param("steps", "count", "1000, unless epochs is given", derived=True, rival="epochs"),
        Param("epochs", "count or none", "none", takes_none=True, rival="steps"),
        Param("micro_batches", "count", "1"),
        Param("optimizer", "adamw(...)", "adamw()", takes=("optimizer",)),
        Param("schedule", "cosine(...) or constant(...)", "cosine()", takes=("schedule",)),
        Param("clip", "positive number or none", "1.0", takes_none=True),
        Param("seed", "whole number", "0"),
        Param(
            "checkpoint",
            "saved(...) or none",
            "none",
            takes_none=True,
            takes=("saving",),
            opened="saved()",
        ),
        *NUMERICS,
        *DATA,
    ),
}
DEFAULT_SEQUENCE = 4096
DEFAULT_STEPS = 1000
