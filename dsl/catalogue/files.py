"""Mistakes of files and overrides, limits, and what is not supported yet: 11 to 13."""

from __future__ import annotations

from moec.dsl.diagnostics import Kind

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
