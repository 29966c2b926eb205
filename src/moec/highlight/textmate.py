"""The TextMate grammar, for editors: `python -m moec.highlight.textmate FILE` writes it.

Its rules are flat: at every place the first that matches gives the scope. Editors have no parser, so a word
counts as what its neighbours on the line say, else as what the tables of the language say.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from moec.dsl.tokens import NUMBER, OPERATORS, SUFFIX

from .words import BLOCKS, HOLE, Class, fixed_words

SCOPES: dict[Class, str] = {
    "comment": "comment.line.number-sign",
    "string": "string.quoted.double",
    "hole": "constant.other.placeholder",
    "number": "constant.numeric",
    "unit": "keyword.other.unit",
    "keyword": "keyword.control",
    "block": "storage.type.block",
    "block_name": "entity.name.type.block",
    "component": "entity.name.class.component",
    "part": "support.function.part",
    "stage": "support.function.stage",
    "balance": "support.function.balance",
    "setup": "support.function.setup",
    "function": "support.function.builtin",
    "form": "support.function.form",
    "constant": "constant.language",
    "stream": "variable.language",
    "argument": "variable.parameter",
    "target": "variable.other.assignment",
    "name": "variable.other.readwrite",
    "operator": "keyword.operator",
    "punctuation": "punctuation.separator",
    "error": "invalid.illegal",
}

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_STEP = rf"(?:\.{_NAME}|\[{_NAME}\]|\.\{{[^{{}}\n]*\}})"
_TABLE_ORDER: tuple[Class, ...] = (
    "keyword", "constant", "unit", "component", "part", "stage", "balance", "setup", "function", "form",
    "stream",
)  # fmt: skip

Rule = dict[str, object]


def scope(kind: Class) -> str:
    """The TextMate scope of a class."""
    return f"{SCOPES[kind]}.moe"


def grammar() -> dict[str, object]:
    """The grammar as plain data."""
    return {
        "$schema": "https://raw.githubusercontent.com/martinring/tmlanguage/master/tmlanguage.json",
        "name": "moe",
        "scopeName": "source.moe",
        "fileTypes": ["moe"],
        "patterns": rules(),
    }


def rules() -> list[Rule]:
    """The rules in the order in which they are tried."""
    blocks = "|".join(BLOCKS)
    words = fixed_words()
    return [
        _rule("comment", "#.*$"),
        {
            "name": scope("string"),
            "match": r'"[^"]*"',
            "captures": {"0": {"patterns": [_rule("hole", HOLE)]}},
        },
        _rule("error", r'"[^"]*$'),
        {
            "match": rf"\b({blocks})(?:\s+({_NAME}))?(?=\s*(?:{NUMBER})?\s*\{{)",
            "captures": {"1": {"name": scope("block")}, "2": {"name": scope("block_name")}},
        },
        {
            "match": rf"\b(use)\s+({_NAME})",
            "captures": {"1": {"name": scope("keyword")}, "2": {"name": scope("block_name")}},
        },
        _rule("argument", rf"\b{_NAME}(?=\s*:)"),
        _rule("stream", r"(?<![\w.])x(?=\s*(?:\+=|=(?!>)))"),
        _rule("target", rf"(?<![\w.]){_NAME}{_STEP}*(?=\s*(?:\|[^=\n]*)?(?:\+=|=(?!>)))"),
        _rule("number", rf"(?<![\w.]){NUMBER}{SUFFIX}"),
        _rule("name", rf"\b{_NAME}(?:\.{_NAME})+"),
        *(_rule(kind, _any_of(words[kind])) for kind in _TABLE_ORDER),
        _rule("name", rf"\b{_NAME}"),
        _rule("operator", "|".join(re.escape(text) for text in sorted(_operators(), key=len, reverse=True))),
        _rule("punctuation", r"[\[\]{}(),:.]"),
    ]


def _rule(kind: Class, match: str) -> Rule:
    return {"name": scope(kind), "match": match}


def _any_of(words: tuple[str, ...]) -> str:
    return rf"\b(?:{'|'.join(sorted(words))})\b"


def _operators() -> list[str]:
    return [text for text in OPERATORS if text not in "(){}[],:."]


def grammar_text() -> str:
    """The file as an editor reads it."""
    return json.dumps(grammar(), indent=2) + "\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(grammar_text(), encoding="utf-8")
