"""Text -> tokens. Ends of lines separate statements inside `{}` and at the top level, and mean nothing inside
`()` and `[]`, nor before or after an operator. Comments are set aside for the formatter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl.diagnostics import DiagnosticBag, Mistake
from moec.dsl.limits import BAD_CHARACTERS, NAME_LENGTH, NESTING, STRING_LENGTH, TOKENS
from moec.dsl.source import SourceText, Span

KEYWORDS = {"use": "USE", "match": "MATCH", "of": "OF", "else": "ELSE"}
UNIT_WORDS = ("tokens", "sequences")
OPERATORS = {
    "=>": "ARROW", "+=": "PLUSEQ", "..": "DOTDOT", "=": "EQ", "+": "PLUS", "*": "STAR", "/": "SLASH",
    "|": "PIPE", ".": "DOT", ":": "COLON", ",": "COMMA", "(": "LPAR", ")": "RPAR", "[": "LSQB", "]": "RSQB",
    "{": "LBRACE", "}": "RBRACE",
}  # fmt: skip
_CLOSER = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}

# Between these and the next line, or before these on a new line, an expression goes on.
GOES_ON_AFTER = frozenset(("PIPE", "PLUS", "STAR", "SLASH", "ARROW", "DOT", "DOTDOT", "OF", "ELSE", "MATCH"))
GOES_ON_BEFORE = frozenset(("PIPE", "PLUS", "STAR", "SLASH", "ARROW", "DOTDOT", "OF", "ELSE", "DOT"))

NUMBER = r"-?[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?"
SUFFIX = r"(?:[A-Za-z_][A-Za-z0-9_]*(?:/[A-Za-z]+)?)?"
_TOKEN = re.compile(
    rf"""(?P<newline>\n)
      | (?P<space>[ \t\r]+)
      | (?P<comment>\#[^\n]*)
      | (?P<number>{NUMBER}{SUFFIX})
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<string>"[^"\n]*")
      | (?P<open_string>"[^"\n]*)
      | (?P<operator>=>|\+=|\.\.|[=+*/|.:,(){{}}\[\]])
      | (?P<bad>[^\s\#"A-Za-z0-9_=+*/|.:,(){{}}\[\]]+|.)
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Token:
    """One token; `SEP` stands for an end of line or a comma between statements."""

    kind: str
    text: str
    span: Span


@dataclass(frozen=True)
class Comment:
    """A comment, without its `#`."""

    text: str
    span: Span


@dataclass(frozen=True)
class Tokens:
    """A text in tokens."""

    tokens: tuple[Token, ...]
    comments: tuple[Comment, ...]


def tokenize(source: SourceText, bag: DiagnosticBag, start: int = 0) -> Tokens:
    """All tokens of a text, from the offset `start` on. Characters of no token are reported and skipped."""
    comments: list[Comment] = []
    raw: list[Token] = []
    for token in _scan(source, bag, start):
        if token.kind == "COMMENT":
            comments.append(Comment(token.text[1:].rstrip(), token.span))
            continue
        raw.append(token)
        if len(raw) > TOKENS:
            bag.add(c.TOO_LARGE.at(token.span, f"a text has at most {TOKENS:_} tokens"))
            raw = []
            break
    separated = bag.attempt(lambda: tuple(_separate(raw)))
    return Tokens(separated or (), tuple(comments))


def _scan(source: SourceText, bag: DiagnosticBag, start: int) -> Iterator[Token]:
    bad = 0
    byte_order_mark = start == 0 and source.text.startswith("\ufeff")
    for found in _TOKEN.finditer(source.text, 1 if byte_order_mark else start):
        group, text = str(found.lastgroup), found.group()
        span = Span(source, found.start(), found.end())
        match group:
            case "space":
                continue
            case "bad":
                bag.add(c.BAD_CHARACTER.at(span, f"unexpected {_show(text)}"))
                bad += 1
                if bad == BAD_CHARACTERS:
                    return
            case "open_string":
                bag.add(c.OPEN_STRING.at(span, 'expected `"` before the end of the line'))
                yield Token("STRING", text + '"', span)
            case "string" if len(text) > STRING_LENGTH:
                bag.add(c.TOO_LARGE.at(span, f"a string has at most {STRING_LENGTH} characters"))
            case "name" if len(text) > NAME_LENGTH:
                bag.add(c.TOO_LARGE.at(span, f"a name has at most {NAME_LENGTH} characters"))
            case "name":
                yield Token(KEYWORDS.get(text, "NAME"), text, span)
            case "operator":
                yield Token(OPERATORS[text], text, span)
            case _:
                yield Token(group.upper(), text, span)


def _show(text: str) -> str:
    if text.isprintable():
        return f"`{text[:20]}`"
    return "character " + ", ".join(f"U+{ord(char):04X}" for char in text[:3])


def _separate(raw: list[Token]) -> Iterator[Token]:
    """Turn commas and ends of lines into SEP where they separate statements, and drop the rest."""
    open_brackets: list[Token] = []
    last: Token | None = None
    for index, token in enumerate(raw):
        if token.kind in _CLOSER:
            open_brackets.append(token)
            if len(open_brackets) > NESTING:
                raise Mistake(c.TOO_DEEP.at(token.span, f"brackets nest at most {NESTING} deep"))
        elif open_brackets and token.kind == _CLOSER[open_brackets[-1].kind]:
            open_brackets.pop()
        in_statements = not open_brackets or open_brackets[-1].kind == "LBRACE"
        kept = _statement_token(token, last, raw, index) if in_statements else _inner_token(token)
        if kept is not None:
            yield kept
            last = kept


def _inner_token(token: Token) -> Token | None:
    return None if token.kind == "NEWLINE" else token


def _statement_token(token: Token, last: Token | None, raw: list[Token], index: int) -> Token | None:
    if token.kind == "COMMA":
        return Token("SEP", token.text, token.span)
    if token.kind == "NEWLINE":
        return _end_of_line(token, last, raw, index)
    follows_number = last is not None and last.kind == "NUMBER" and raw[index - 1] is last
    if token.kind == "NAME" and token.text in UNIT_WORDS and follows_number:
        return Token("UNIT", token.text, token.span)
    return token


def _end_of_line(token: Token, last: Token | None, raw: list[Token], index: int) -> Token | None:
    if last is None or last.kind in ("SEP", "LBRACE") or last.kind in GOES_ON_AFTER:
        return None
    following = index + 1
    while following < len(raw) and raw[following].kind == "NEWLINE":
        following += 1
    if following < len(raw) and raw[following].kind in (*GOES_ON_BEFORE, "COMMA"):
        return None
    return Token("SEP", token.text, token.span)
