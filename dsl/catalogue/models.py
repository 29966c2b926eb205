"""Mistakes of models, routers and layers: 04 to 06."""

from __future__ import annotations

from moec.dsl.diagnostics import Kind

# --- 04 model ---
MISSING_SETTING = Kind(
    "MOE0401",
    "missing setting",
    "A model needs `vocab`, `width`, `context`, one `layers N { ... }` block and `logits = linear(...)`.",
)
NO_MODEL = Kind(
    "MOE0402",
    "no model",
    "A text needs a `model NAME { ... }` block, its own or one that comes with `use`.",
)
NOT_DIVISIBLE = Kind(
    "MOE0403",
    "does not divide",
    "Grouped-query attention needs heads to be a multiple of kv_heads. Without `head_dim`, width must "
    "be a multiple of heads. Rotary positions pair the two halves of a head, so its size must be "
    "even.",
)
TOO_MANY_PARAMETERS = Kind(
    "MOE0404",
    "model too large",
    "The parameters of the model, all layers and experts together, exceed the limit of 10^15.",
)
# MOE0405 was a count of shared experts other than one.
EXCLUDED = Kind(
    "MOE0406",
    "arguments exclude each other",
    "Both arguments say the same thing, or what one says leaves no meaning to the other: "
    "`window: 128, chunk: 512`, or `rope(dims: 32, fraction: 0.5)`. Give one of them.",
)
NO_EFFECT = Kind(
    "MOE0407",
    "argument without effect",
    "The argument belongs to something that is not there: `shared_gate: true` without `shared`, "
    "`latent_norm: norm` without `latent`. Nothing that is written is left without effect.",
)
BAD_POSITION = Kind(
    "MOE0408",
    "positions that cannot be",
    "Rotary positions turn pairs of dims, so `dims` is even and at most the size of a head, and `fraction` "
    "of a head must come out even. `longrope` has a factor for every pair; ramps have a larger and a "
    "smaller end.",
)

# --- 05 router and balance ---
BAD_ROUTER = Kind(
    "MOE0501",
    "router out of order",
    "A router is a pipeline of stages in the order they happen: [jitter], scale or softcap of logits, "
    "[softmax | sigmoid | sqrt_softplus], [correction_bias | sinkhorn], [groups], the choice by top, "
    "sparsemixer, hash or round_robin, [softmax | sigmoid] of the chosen, [renormalize], scale or "
    "expert_scale of weights, [capacity]. `softmax | top(2) | renormalize` and `top(4) | softmax` are "
    "routers.",
)
TOP_TOO_LARGE = Kind(
    "MOE0502",
    "more choices than experts",
    "A token is sent to k different experts, so k is at most the number of experts, or with `groups` the "
    "number of experts in the groups that are kept.",
)
BAD_BALANCE = Kind(
    "MOE0503",
    "balance term",
    "`balance` is `none` or a sum of loss terms, each at most once: `aux_loss(0.01) + z_loss(0.001)`. "
    "`sequence_aux_loss` is a loss of the router's scores, so the router needs a score before its choice. "
    "`aux_loss` pools the tokens of all layers, which then have equally many experts, unless it is "
    "`per: layer`.",
)
BAD_GROUPS = Kind(
    "MOE0504",
    "groups that cannot be",
    "`groups(n, keep: k)` cuts the experts into n groups of one size and keeps k of them, so n divides the "
    "number of experts and k is at most n. `by: top2_sum` adds the two best of a group, so a group has two.",
)

# --- 06 layers ---
BAD_EQUATION = Kind(
    "MOE0601",
    "not an equation of a layer",
    "A layer is a list of equations over the residual stream `x`: `x += f(norm(x))` or `x = f(x)`, "
    "where `f` and `norm` are bindings of the model, or a `match layer { ... }` that chooses one.",
)
PARAMETERS_TWICE = Kind(
    "MOE0602",
    "two uses of one name",
    "Every use of a component in a layer has parameters of its own, named after its binding, so a "
    "binding is used once in a layer. Bind the component to a second name to use it twice.",
)
LAYER_NOT_COVERED = Kind(
    "MOE0603",
    "layer without an arm",
    "A `match layer` chooses a component for every layer: the first arm whose pattern holds. End it "
    "with `_ => ...`.",
)
LAYER_OUT_OF_RANGE = Kind(
    "MOE0604",
    "no such layer",
    "Patterns of `match layer` name layers from 0 up to, but not including, the number of layers.",
)
BAD_PATTERN = Kind(
    "MOE0605",
    "not a pattern of layers",
    "A pattern is a layer `5`, a half-open range `0..3`, a list `[1, 7]`, the name of an integer or "
    "list binding, `every(n)` for the layers i with (i + 1) % n == 0, or `_` for all.",
)
BAD_HEAD = Kind(
    "MOE0606",
    "not an output projection",
    "The output is written `logits = linear(...)`, where the argument is `x` or components applied to it.",
)

BAD_EMBED = Kind(
    "MOE0607",
    "not an embedding",
    "What the layers start from is written `x = embed(tokens)`, normed as `x = norm(embed(tokens))` and "
    "with a factor in front: `x = 12 * embed(tokens)` or `x = sqrt(width) * embed(tokens)`.",
)
BAD_PRODUCT = Kind(
    "MOE0608",
    "product of values",
    "In an equation a value is multiplied or divided by numbers: `0.22 * f(x)`, `f(x) / 8`. Two values "
    "can only be added.",
)
BAD_LOCAL = Kind(
    "MOE0609",
    "local name",
    "A name that is assigned in a layer, as in `h = norm(x)`, holds a value of that layer: it is assigned "
    "once, before it is used, it is used, and it is no other name of the model.",
)
VARIES = Kind(
    "MOE0610",
    "another in every layer",
    "A binding with `match layer` in it has a value only inside of `layers N { ... }`. Bind what is used "
    "outside to a name of its own.",
)
