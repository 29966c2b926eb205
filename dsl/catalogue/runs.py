"""Mistakes of where and how a model runs: 07 and 08."""

from __future__ import annotations

from moec.dsl.diagnostics import Kind

# --- 07 where it runs ---
TWO_RESTS = Kind(
    "MOE0701",
    "two degrees are `rest`",
    "At most one degree of `parallel` is `rest`: what the other degrees leave of the world.",
)
FORMATS_APART = Kind(
    "MOE0702",
    "number formats that do not go together",
    "`compute = fp64` means fp64 for all of `precision`, and nothing else is fp64 without it. The router's "
    "product is not in a narrower format than the rest: `router = bf16` needs `compute = bf16`.",
)

# --- 08 training ---
SEQUENCE_TOO_LONG = Kind(
    "MOE0801",
    "sequence longer than context",
    "`train.sequence` is at most `context`, the longest sequence of the model.",
)
BATCH_NOT_MULTIPLE = Kind(
    "MOE0802",
    "batch holds no whole number of sequences",
    "`batch` counts tokens of the global batch and is a multiple of `sequence`. `batch = N sequences` "
    "always is.",
)
STEPS_AND_EPOCHS = Kind(
    "MOE0803",
    "steps and epochs",
    "The length of a run is given by `steps` or by `epochs`, not by both.",
)
MICRO_BATCHES = Kind(
    "MOE0804",
    "micro-batches do not divide the batch",
    "`micro_batches` splits the sequences of the global batch, so it divides their number.",
)
NOTHING_TO_REWIND_TO = Kind(
    "MOE0805",
    "rewind without checkpoints or without batches",
    "`nonfinite = rewind(...)` and `spike = rewind(...)` go back to the newest checkpoint, and pass over the "
    "batches since then. So a run that rewinds saves checkpoints, such as `checkpoint = saved(every: 1000)`, "
    "and its length is given by `steps`, not by `epochs` of its data.",
)
FACTOR_OF_NONFINITE = Kind(
    "MOE0806",
    "factor of what is not finite",
    "`factor` says how far above the median of the last losses a loss is a spike: it belongs to `spike`, as "
    "in `spike = skip(factor: 3, most: 10)`. What is NaN or infinite is so without a factor.",
)
