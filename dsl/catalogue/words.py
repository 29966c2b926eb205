"""Mistakes of texts, names and values: 01 to 03."""

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
