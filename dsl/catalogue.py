"""Every kind of mistake a `.moe` text can hold. Codes are stable: one is never given to another mistake.

01 text and syntax, 02 names, 03 values, 04 model, 05 router and balance, 06 layers, 07 where it runs, 08
training, 09 weight map, 10 config.json, 11 files and overrides, 12 limits, 13 not supported yet.
"""

from __future__ import annotations

from moec.dsl.diagnostics import Kind

# --- 01 text and syntax ---
BAD_CHARACTER = Kind(
    "MOE0101",
    "unexpected character",
    "A text is made of names, numbers, strings in double quotes, comments after `#`, and the "
    "operators = += + * / | . .. : , => ( ) [ ] { }. Any other character is an error outside of a comment "
    "or a string.",
)
OPEN_STRING = Kind(
    "MOE0102",
    "unterminated string",
    "A string starts and ends with a double quote on the same line. It has no escapes.",
)
SYNTAX = Kind(
    "MOE0103",
    "syntax error",
    "The text does not have the form of the language at this place. Statements stand on lines of "
    "their own or are separated by commas; arguments of a component are written `name: value` and "
    "separated by commas.",
)
UNCLOSED = Kind(
    "MOE0104",
    "bracket never closed",
    "Every `(`, `[` and `{` needs its closing partner. The place shown is the innermost one still "
    "open at the end.",
)
BAD_NUMBER = Kind(
    "MOE0105",
    "malformed number",
    "A number is written in digits, optionally grouped by `_`, with a decimal point or an exponent, "
    "and may end in a prefix (K M G T P, or Ki Mi Gi Ti Pi for powers of 1024) and a unit (B, B/s).",
)
NOT_TEXT = Kind(
    "MOE0106",
    "not a text",
    "A `.moe` file is UTF-8 text of at most 1 MiB.",
)

# --- 02 names ---
UNKNOWN_BLOCK = Kind(
    "MOE0201",
    "unknown block",
    "The blocks of a text are `model`, `parallel`, `precision`, `memory`, `train` and `checkpoint`; a "
    "model holds one `layers` block and a checkpoint may hold a `config` block.",
)
UNKNOWN_SETTING = Kind(
    "MOE0202",
    "unknown setting",
    "A block other than `model` has a fixed set of settings, listed in the language reference.",
)
UNKNOWN_COMPONENT = Kind(
    "MOE0203",
    "unknown component",
    "What is called here is none of the components, schedules, optimizers or other constructs that "
    "can stand here.",
)
UNKNOWN_ARGUMENT = Kind(
    "MOE0204",
    "unknown argument",
    "The construct takes no argument of this name. The language reference lists the arguments of each.",
)
UNKNOWN_NAME = Kind(
    "MOE0205",
    "unknown name",
    "A name refers to a binding of the model (`norm = rms_norm(...)`, `dense_layers = [0, 3]`) or to "
    "a word that is defined where it stands. Names of one block cannot be used in another.",
)
DUPLICATE = Kind(
    "MOE0206",
    "given twice",
    "A setting, binding, argument or block is given once in a file. To change one that comes with "
    "`use`, give it in the present file: that replaces it.",
)
RESERVED = Kind(
    "MOE0207",
    "reserved name",
    "`x`, `layer`, `layers`, `embed`, `logits`, `none`, `true`, `false`, `rest` and `_` have a fixed "
    "meaning in a model and cannot be bound.",
)
MISPLACED = Kind(
    "MOE0208",
    "out of place",
    "The statement or expression exists in the language but cannot stand at this place.",
)
CIRCULAR = Kind(
    "MOE0209",
    "bindings in a circle",
    "A binding of a model may refer to others, as in `swa_heads = heads / 2`, but not to itself, directly or "
    "through others.",
)

# --- 03 values ---
WRONG_TYPE = Kind(
    "MOE0301",
    "wrong kind of value",
    "A value of another kind is expected here, such as a whole number where a name was given.",
)
OUT_OF_RANGE = Kind(
    "MOE0302",
    "value out of range",
    "The value is of the right kind but too small or too large. The message shows the bounds.",
)
MISSING_ARGUMENT = Kind(
    "MOE0303",
    "missing argument",
    "The argument has no default and must be given.",
)
TOO_MANY_ARGUMENTS = Kind(
    "MOE0304",
    "argument by position",
    "Only a few constructs take their first argument by position (`top(2)`, `swiglu(96)`); all others "
    "are written `name: value`.",
)
WRONG_UNIT = Kind(
    "MOE0305",
    "wrong unit",
    "The unit of the number does not fit the value: `batch` counts tokens or sequences, `device` "
    "counts bytes.",
)

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
    "`sequence_aux_loss` is a loss of the router's scores, so the router needs a score before its choice.",
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

# --- 07 where it runs ---
TWO_RESTS = Kind(
    "MOE0701",
    "two degrees are `rest`",
    "At most one degree of `parallel` is `rest`: what the other degrees leave of the world.",
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
    "`else VALUE` for files that lack the key; spellings of one key are joined by `|`.",
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

# --- 11 files and overrides ---
NO_SUCH_MODEL = Kind(
    "MOE1101",
    "no such model or file",
    '`use name` takes a shipped model (see `moec models`); `use "path.moe"` takes a file, relative to '
    "the present one.",
)
USE_CYCLE = Kind(
    "MOE1102",
    "files use each other",
    "A file cannot `use` itself, directly or through others.",
)
BAD_OVERRIDE = Kind(
    "MOE1103",
    "malformed override",
    "An override is `--set PATH=VALUE`, such as `--set train.sequence=128` or `--set experts.experts=4`.",
)
UNKNOWN_PATH = Kind(
    "MOE1104",
    "no such path",
    "The path of an override leads to no value. Paths follow the text: block and setting "
    "(`train.sequence`), binding and argument (`attention.heads`), router stage "
    "(`experts.router.top`); settings of `model` need no prefix.",
)
UNREADABLE = Kind(
    "MOE1105",
    "cannot read the file",
    "The file does not exist, is no regular file, or may not be read.",
)

# --- 12 limits ---
TOO_LARGE = Kind(
    "MOE1201",
    "text too large",
    "A text is limited in bytes, tokens, length of names, items of lists and files it uses, so that "
    "every input is answered at once.",
)
TOO_DEEP = Kind(
    "MOE1202",
    "nested too deep",
    "Brackets nest at most 32 deep.",
)

# --- 13 not supported yet ---
NOT_YET = Kind(
    "MOE1301",
    "not supported yet",
    "The construct belongs to the language, but this version cannot compile it. The language "
    "reference lists what answers so.",
)

ALL: tuple[Kind, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Kind))
BY_CODE: dict[str, Kind] = {kind.code: kind for kind in ALL}
