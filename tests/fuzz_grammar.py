"""Texts that follow the grammar, as hypothesis strategies: its rules as they are, with words of ours."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

import lark
from hypothesis import strategies as st
from hypothesis.extra.lark import from_lark

from fuzz_texts import NUMBERS, WORDS
from moec import dsl
from moec.dsl.tokens import KEYWORDS, OPERATORS, UNIT_WORDS

SPELLED = {kind: f" {text} " for text, kind in (*KEYWORDS.items(), *OPERATORS.items())}
_OF_STATEMENTS = ("USE",)
PLAIN_NUMBERS = tuple(number for number in NUMBERS if " " not in number)


def grammar() -> lark.Lark:
    """The grammar as the parser reads it."""
    path = Path(dsl.__file__).parent / "grammar.lark"
    return lark.Lark(path.read_text("utf-8"), parser="lalr", start=["file", "expr"], lexer=_Never)


class _Never(lark.lexer.Lexer):
    """Tokens are made here, not read."""

    def __init__(self, _config: object) -> None:
        pass

    def lex(self, _lexer_state: object, _parser_state: object) -> None:  # type: ignore[override]
        raise AssertionError("nothing is parsed with this grammar")


def _terminals(left_out: Container[str] = ()) -> dict[str, st.SearchStrategy[str]]:
    names = st.sampled_from(WORDS) | st.from_regex(r"[a-z_][a-z0-9_]{0,3}", fullmatch=True)
    found: dict[str, st.SearchStrategy[str]] = {kind: st.just(text) for kind, text in SPELLED.items()}
    found |= {
        "NAME": names.map(" {} ".format),
        "NUMBER": st.sampled_from(PLAIN_NUMBERS).map(" {} ".format),
        "UNIT": st.sampled_from(UNIT_WORDS),
        "STRING": st.sampled_from(['"a"', '"layers.{i}.{}"', '""', '"{e}"']),
        "SEP": st.sampled_from(["\n", ",", "\n\n", "  # a comment\n"]),
    }
    return {kind: texts for kind, texts in found.items() if kind not in left_out}


def files() -> st.SearchStrategy[str]:
    """Whole texts."""
    return from_lark(grammar(), start="file", explicit=_terminals())


def expressions() -> st.SearchStrategy[str]:
    """Values."""
    return from_lark(grammar(), start="expr", explicit=_terminals(_OF_STATEMENTS))
