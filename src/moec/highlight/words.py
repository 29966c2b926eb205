"""The classes of words that an editor can tell apart, from the tables of the language."""

from __future__ import annotations

from typing import Literal, get_args, get_type_hints

from moec.dsl.spec import Form
from moec.dsl.tokens import KEYWORDS, UNIT_WORDS
from moec.dsl.vocabulary import CONSTRUCTS, TOP_LEVEL, Role

Class = Literal[
    "comment",
    "string",
    "hole",  # `{i}` in the name of a tensor
    "number",
    "unit",
    "keyword",
    "block",
    "block_name",
    "component",
    "part",  # a position, a gate and what else an attention takes as a call
    "stage",
    "balance",
    "setup",  # an optimizer, a schedule, an initialisation
    "function",
    "form",
    "constant",
    "stream",
    "argument",
    "target",
    "name",
    "operator",
    "punctuation",
    "error",
]

OF_ROLE: dict[Role, Class] = {
    "component": "component",
    "position": "part",
    "qk_norm": "part",
    "gate": "part",
    "temperature": "part",
    "stage": "stage",
    "balance": "balance",
    "dispatch": "setup",
    "optimizer": "setup",
    "schedule": "setup",
    "saving": "setup",
    "remedy": "setup",
    "warning": "setup",
    "validation": "setup",
    "recompute": "setup",
    "offload": "setup",
    "init": "setup",
    "pattern": "function",
    "function": "function",
}
BLOCKS = (*TOP_LEVEL, "layers", "config")
CONSTANTS = ("none", "true", "false", "rest", "_")
STREAM = ("x", "layer")
FORMS: tuple[str, ...] = (*get_args(get_type_hints(Form)["kind"]), "each_layer")
HOLE = r"\{[A-Za-z0-9_]*\}"


def fixed_words() -> dict[Class, tuple[str, ...]]:
    """The words of every class that is known from the word alone; a word is in one class only."""
    found: dict[Class, tuple[str, ...]] = {
        "keyword": tuple(KEYWORDS),
        "unit": UNIT_WORDS,
        "constant": CONSTANTS,
        "stream": STREAM,
        "form": FORMS,
    }
    for construct in CONSTRUCTS.values():
        found[OF_ROLE[construct.role]] = (*found.get(OF_ROLE[construct.role], ()), construct.name)
    return found


CLASS_OF: dict[str, Class] = {word: name for name, words in fixed_words().items() for word in words}
