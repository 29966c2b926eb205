"""The Pygments lexer, for documentation and terminals: `pygmentize -l moe model.moe`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from pygments.lexer import Lexer
from pygments.token import (
    Comment,
    Error,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
    _TokenType,
)

from .classify import classify
from .words import Class

TOKEN_OF: dict[Class, _TokenType] = {
    "comment": Comment.Single,
    "string": String.Double,
    "hole": String.Interpol,
    "number": Number,
    "unit": Keyword.Type,
    "keyword": Keyword,
    "block": Keyword.Declaration,
    "block_name": Name.Namespace,
    "component": Name.Class,
    "part": Name.Builtin,
    "stage": Name.Function,
    "balance": Name.Function.Magic,
    "setup": Name.Builtin,
    "function": Name.Builtin.Pseudo,
    "form": Name.Decorator,
    "constant": Keyword.Constant,
    "stream": Name.Variable.Magic,
    "argument": Name.Attribute,
    "target": Name.Variable,
    "name": Name,
    "operator": Operator,
    "punctuation": Punctuation,
    "error": Error,
}


class MoeLexer(Lexer):  # type: ignore[misc]  # pygments publishes no types
    """`.moe` texts, by the tokens of the parser itself."""

    name = "moe"
    url = ""
    aliases: ClassVar[list[str]] = ["moe"]
    filenames: ClassVar[list[str]] = ["*.moe"]
    version_added = ""

    def get_tokens_unprocessed(self, text: str) -> Iterator[tuple[int, _TokenType, str]]:
        """(offset, type, characters) of the whole text."""
        for run in classify(text):
            kind = Whitespace if run.kind is None else TOKEN_OF[run.kind]
            yield run.start, kind, text[run.start : run.end]
