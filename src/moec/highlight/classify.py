"""A text -> runs of characters with their classes. Any text is classified, a broken one as far as it goes.

The tokens are the parser's, so that what is no token for it is an `error` here, and nothing else is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.source import SourceText
from moec.dsl.tokens import OPERATORS, Token, Tokens, tokenize

from .words import BLOCKS, CLASS_OF, HOLE, Class

_PUNCTUATION = frozenset(("COMMA", "COLON", "DOT", "LPAR", "RPAR", "LSQB", "RSQB", "LBRACE", "RBRACE", "SEP"))
_OF_KIND: dict[str, Class] = {
    **{kind: "punctuation" if kind in _PUNCTUATION else "operator" for kind in OPERATORS.values()},
    **dict.fromkeys(("USE", "MATCH", "OF", "ELSE"), "keyword"),
    "SEP": "punctuation",
    "NUMBER": "number",
    "UNIT": "unit",
}


@dataclass(frozen=True)
class Run:
    """Characters [start, end) of one class; None for blanks."""

    start: int
    end: int
    kind: Class | None


def classify(text: str) -> Iterator[Run]:
    """The whole text in runs, in order and without gaps."""
    source = SourceText("<text>", text)
    position = 0
    for run in _tokens(tokenize(source, DiagnosticBag())):
        yield from _between(text, position, run.start)
        yield run
        position = run.end
    yield from _between(text, position, len(text))


def _tokens(found: Tokens) -> Iterator[Run]:
    comments = [Run(one.span.start, one.span.end, "comment") for one in found.comments]
    tokens = [run for i in range(len(found.tokens)) for run in _runs(found.tokens, i)]
    yield from sorted([*comments, *tokens], key=lambda run: run.start)


def _between(text: str, start: int, end: int) -> Iterator[Run]:
    """What lies between tokens: blanks, and characters of which the parser makes no token."""
    for found in re.compile(r"[\s\ufeff]+|[^\s\ufeff]+").finditer(text, start, end):
        kind: Class | None = None if not found.group().strip(" \t\r\n\ufeff") else "error"
        yield Run(found.start(), found.end(), kind)


def _runs(tokens: Sequence[Token], index: int) -> Iterator[Run]:
    token = tokens[index]
    start, end = token.span.start, token.span.end
    if token.kind == "STRING":
        yield from _string(token)
    elif token.kind == "NAME":
        yield Run(start, end, _name(tokens, index))
    elif token.text.strip():  # ends of lines are blanks
        yield Run(start, end, _OF_KIND[token.kind])


def _string(token: Token) -> Iterator[Run]:
    """A string, with the `{i}` in it apart. One that is not closed is an error."""
    start, end = token.span.start, token.span.end
    text = token.span.text
    if len(text) < 2 or not text.endswith('"'):
        yield Run(start, end, "error")
        return
    position = start
    for hole in re.finditer(HOLE, text):
        yield Run(position, start + hole.start(), "string")
        yield Run(start + hole.start(), start + hole.end(), "hole")
        position = start + hole.end()
    yield Run(position, end, "string")


def _name(tokens: Sequence[Token], index: int) -> Class:
    """What a name is by what stands beside it, else by the tables."""
    text = tokens[index].text
    before = tokens[index - 1].kind if index else "SEP"
    after = tokens[index + 1].kind if index + 1 < len(tokens) else "SEP"
    if before == "NAME":
        return "block_name"
    if text in BLOCKS and after in ("LBRACE", "NAME", "NUMBER"):
        return "block"
    if after == "COLON":
        return "argument"
    if before != "DOT" and after in ("EQ", "PLUSEQ") and text != "x":
        return "target"
    if before == "USE":
        return "block_name"
    if before == "DOT" or after == "DOT":
        return "name"
    return CLASS_OF.get(text, "name")
