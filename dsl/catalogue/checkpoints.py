"""Mistakes of weight maps and config.json: 09 and 10."""

from __future__ import annotations

from moec.dsl.diagnostics import Kind

# --- 09 weight map ---
BAD_RULE = Kind(
    "MOE0901",
    "not a rule of a weight map",
    'A rule is `parameter = "tensor"`. Left, `layers[i]` and `expert[e]` stand for every layer and '
    "expert and `{q,k,v}` for alternatives; right, `{i}` and `{e}` stand for their numbers and `{}` "
    "for the alternative. Forms around the name say how the tensor is made of parameters: "
    "`concat(R)` and `interleave(R)` of the alternatives, `stack(e, R)` and `concat(e, R)` of the "
    "experts, `stack(R)` with a new first dim of 1, `transpose(R)`. Every index and every set of "
    'alternatives is used once: `expert[e].{gate,up} = stack(e, concat("h.{i}.gate_up"))`.',
)
UNMAPPED = Kind(
    "MOE0902",
    "parameter without a tensor",
    "The weight map must be a bijection: every parameter of the model has exactly one tensor of the "
    "checkpoint.",
)
MAPPED_TWICE = Kind(
    "MOE0903",
    "parameter mapped twice",
    "Two rules of the weight map give a tensor for the same parameter.",
)
TENSOR_TWICE = Kind(
    "MOE0904",
    "two parameters, one tensor",
    "Two parameters of the model are mapped to the same tensor of the checkpoint; import would fill "
    "both from it and export would lose one.",
)
NO_SUCH_PARAMETER = Kind(
    "MOE0905",
    "rule for no parameter",
    "The left side of the rule names a parameter that no setting of this model can have.",
)
MAPPED_AND_IGNORED = Kind(
    "MOE0906",
    "tensor mapped and ignored",
    "A tensor that belongs to a parameter is also listed under `ignore`.",
)
BAD_FORM = Kind(
    "MOE0907",
    "parameters do not fit into a tensor",
    "`stack` and `interleave` take elements of one shape, `concat` elements that differ in their "
    "first dim only, and `transpose` swaps the last two dims of elements that have as many: "
    '`attention.{q,q_norm} = stack("h.{i}.q")` can never be.',
)
INCOMPLETE_TENSOR = Kind(
    "MOE0908",
    "part of a tensor is missing",
    "A rule makes one tensor of several parameters, and the model has some of them but not all: "
    'with `{gate,up} = concat("mlp.gate_up.weight")` a network without a gate has no such tensor.',
)

# --- 10 config.json ---
BAD_CONFIG_ENTRY = Kind(
    "MOE1001",
    "not an entry of a config block",
    "An entry is `key = path` (a value of the model, by its path), `key = constant`, or either with "
    "`else VALUE` for files that lack the key; spellings of one key are joined by `|`. A list with an entry "
    "for every layer is `key = match layer { pattern => value, ... }`: constants or names of numbers.",
)
CONFIG_PATH = Kind(
    "MOE1002",
    "config path leads nowhere",
    "The path on the right of an entry of `config` leads to no value of the model.",
)
CONFIG_MISMATCH = Kind(
    "MOE1003",
    "config.json says something else",
    "The model text fixes this value, and the config.json at hand has another: it describes a model "
    "that the text cannot express.",
)
CONFIG_MISSING = Kind(
    "MOE1004",
    "config.json lacks a key",
    "The model text takes this value from the config.json, which lacks it, and the text gives no `else`.",
)
CONFIG_UNKNOWN = Kind(
    "MOE1005",
    "unknown key in config.json",
    "The key is neither bound by the model text nor known to have no effect on what the model "
    "computes, so it could change the meaning of the weights.",
)
CONFIG_VALUE = Kind(
    "MOE1006",
    "unusable value in config.json",
    "A value of the config.json is of a kind that no setting of a model takes.",
)

NO_MAP = Kind(
    "MOE1007",
    "no weight map",
    "Import and export need a `checkpoint huggingface { ... }` block in the text of the model.",
)
