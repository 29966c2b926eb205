"""Tokens -> syntax tree. The only file that imports lark.

After a syntax error parsing goes on at the next line that starts in the first column, so that one load
reports the errors of all blocks.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import lark
from lark.visitors import Transformer_NonRecursive

from moec.dsl import catalogue as c
from moec.dsl import syntax as s
from moec.dsl.comments import attach
from moec.dsl.diagnostics import Diagnostic, DiagnosticBag, Mistake
from moec.dsl.quantities import BadNumber, parse_quantity
from moec.dsl.source import SourceText, Span
from moec.dsl.tokens import Token, tokenize

_WORDS = {
    "NAME": "a name", "NUMBER": "a number", "STRING": "a string", "UNIT": "`tokens` or `sequences`",
    "SEP": "a new line", "EQ": "`=`", "PLUSEQ": "`+=`", "PIPE": "`|`", "PLUS": "`+`", "STAR": "`*`",
    "SLASH": "`/`", "ARROW": "`=>`", "DOT": "`.`", "DOTDOT": "`..`", "COLON": "`:`", "COMMA": "`,`",
    "LPAR": "`(`", "RPAR": "`)`", "LSQB": "`[`", "RSQB": "`]`", "LBRACE": "`{`", "RBRACE": "`}`",
    "USE": "`use`", "OF": "`of`", "ELSE": "`else`", "MATCH": "`match`", "$END": "the end",
}  # fmt: skip
_GOING_ON = frozenset(("PLUS", "STAR", "SLASH", "DOTDOT", "OF", "PIPE", "DOT", "LPAR", "ELSE"))
_VALUE = frozenset(("NAME", "NUMBER", "STRING", "LPAR", "LSQB", "MATCH"))


def parse_text(source: SourceText, bag: DiagnosticBag) -> s.File:
    """The syntax tree of a file; syntax errors go to the bag and their items are left out."""
    tokens = tokenize(source, bag)
    items: list[s.Item] = []
    rest = tokens.tokens
    while rest:
        parsed, used = _parse_until_error(rest, source, bag)
        items.extend(parsed)
        rest = rest[used:]
    file = s.File(tuple(items), Span(source, 0, len(source.text)))
    return attach(file, tokens.comments)


def parse_expression(source: SourceText, bag: DiagnosticBag, start: int = 0) -> s.Expr | None:
    """A text that is one expression from `start` on, as the VALUE of `--set`; None after an error."""
    before = len(bag)
    tokens = tokenize(source, bag, start)
    if len(bag) > before:
        return None
    try:
        expr: s.Expr = _Builder(source, bag).build(_feed(tokens.tokens, source, "expr"))
    except _Unexpected as error:
        bag.add(error.diagnostic)
        return None
    return expr


class _Unexpected(Mistake):
    """A token that cannot stand where it stands; `index` of it in the list."""

    def __init__(self, diagnostic: Diagnostic, index: int) -> None:
        super().__init__(diagnostic)
        self.index = index


def _parse_until_error(
    tokens: tuple[Token, ...], source: SourceText, bag: DiagnosticBag
) -> tuple[tuple[s.Item, ...], int]:
    """Parse items; on an error, keep those before it. Gives the items and how many tokens are dealt with."""
    try:
        tree = _feed(tokens, source, "file")
    except _Unexpected as error:
        bag.add(error.diagnostic)
        begun = _last_start(tokens, error.index)
        return _items_before(tokens[:begun], source, bag), _next_start(tokens, error.index)
    return _Builder(source, bag).build(tree), len(tokens)


def _items_before(tokens: tuple[Token, ...], source: SourceText, bag: DiagnosticBag) -> tuple[s.Item, ...]:
    try:
        items: tuple[s.Item, ...] = _Builder(source, bag).build(_feed(tokens, source, "file"))
    except _Unexpected:  # the fault lies before the last start: these items cannot be told apart
        return ()
    return items


def _starts_item(token: Token) -> bool:
    return token.kind in ("NAME", "USE") and token.span.column == 1


def _last_start(tokens: tuple[Token, ...], index: int) -> int:
    return next((i for i in range(min(index, len(tokens) - 1), -1, -1) if _starts_item(tokens[i])), 0)


def _next_start(tokens: tuple[Token, ...], index: int) -> int:
    return next((i for i in range(index + 1, len(tokens)) if _starts_item(tokens[i])), len(tokens))


@cache
def _grammar() -> lark.Lark:
    text = (Path(__file__).parent / "grammar.lark").read_text(encoding="utf-8")
    return lark.Lark(
        text, parser="lalr", lexer=_NoLexer, start=["file", "expr"], strict=True, maybe_placeholders=True
    )


def _start(part: Any) -> int:
    start = part.start_pos if isinstance(part, lark.Token) else part.span.start
    assert isinstance(start, int)
    return start


def _end(part: Any) -> int:
    end = part.end_pos if isinstance(part, lark.Token) else part.span.end
    assert isinstance(end, int)
    return end


class _NoLexer(lark.lexer.Lexer):
    """Tokens are fed by hand, so that limits and messages are ours."""

    def __init__(self, _config: object) -> None:
        pass

    def lex(self, lexer_state: object, parser_state: object) -> Any:
        raise AssertionError("tokens are fed by hand")


def _feed(tokens: tuple[Token, ...], source: SourceText, start: str) -> Any:
    parser = _grammar().parse_interactive(start=start)
    end = Token("$END", "", Span(source, len(source.text), len(source.text)))
    result: Any = None
    for index, token in enumerate((*tokens, end)):
        try:
            result = parser.feed_token(_lark_token(token))
        except lark.exceptions.UnexpectedToken:
            raise _Unexpected(_unexpected(token, _accepted(parser), tokens, index), index) from None
    return result


def _accepted(parser: Any) -> set[str]:
    """The kinds of token that could come next (lark leaves its types open here)."""
    return set(parser.accepts())


def _lark_token(token: Token) -> lark.Token:
    return lark.Token(token.kind, token.text, start_pos=token.span.start, end_pos=token.span.end)


def _unexpected(token: Token, accepted: set[str], tokens: tuple[Token, ...], index: int) -> Diagnostic:
    if token.kind == "$END":
        return _unfinished(token, accepted, tokens)
    place, found = token.span, f"`{token.text[:40]}`"
    if token.kind == "SEP" and token.text != ",":
        previous = tokens[index - 1].span
        place, found = Span(previous.source, previous.end, previous.end + 1), "the end of the line"
    in_arguments = token.kind == "EQ" and "COLON" in accepted
    advice = "an argument is written `name: value`" if in_arguments else ""
    label = f"expected {_expected(accepted)}, found {found}"
    return c.SYNTAX.at(place, label, *_still_open(tokens[:index], token), advice=advice)


def _still_open(before: tuple[Token, ...], token: Token) -> list[str]:
    """A note on a `(` or `[` of an earlier line: the place where a closing partner is likely missing."""
    opener = _innermost_open(before)
    if opener is None or opener.kind == "LBRACE" or opener.span.line == token.span.line:
        return []
    return [f"the `{opener.text}` of line {opener.span.line} is still open"]


def _unfinished(end: Token, accepted: set[str], tokens: tuple[Token, ...]) -> Diagnostic:
    opener = _innermost_open(tokens)
    if opener is not None:
        return c.UNCLOSED.at(opener.span, f"this `{opener.text}` is never closed")
    return c.SYNTAX.at(tokens[-1].span if tokens else end.span, f"expected {_expected(accepted)} after this")


def _innermost_open(tokens: tuple[Token, ...]) -> Token | None:
    stack: list[Token] = []
    for token in tokens:
        if token.kind in ("LPAR", "LSQB", "LBRACE"):
            stack.append(token)
        elif token.kind in ("RPAR", "RSQB", "RBRACE") and stack:
            stack.pop()
    return stack[-1] if stack else None


def _expected(accepted: set[str]) -> str:
    """What could stand there, in words; ways to go on with an expression only if nothing else could."""
    kinds = accepted - {"$END", "UNIT"}
    words = ["a value"] if kinds >= _VALUE else []
    kinds -= _VALUE if words else set()
    kinds = kinds - _GOING_ON or kinds
    words += sorted(_WORDS[kind] for kind in kinds)
    return " or ".join((", ".join(words[:-1]), words[-1])) if len(words) > 1 else "".join(words) or "the end"


Children = list[Any]  # of a rule: nodes already built, tokens, and None for an absent optional part


def _tokens(children: Children, kind: str) -> list[lark.Token]:
    return [child for child in children if isinstance(child, lark.Token) and child.type == kind]


def _nodes(children: Children) -> tuple[Any, ...]:
    return tuple(child for child in children if child is not None and not isinstance(child, lark.Token))


class _Builder(Transformer_NonRecursive[lark.Token, Any]):
    """lark's tree -> the syntax tree, without recursion: one method per rule of the grammar."""

    def __init__(self, source: SourceText, bag: DiagnosticBag) -> None:
        super().__init__()
        self._source = source
        self._bag = bag

    def build(self, tree: Any) -> Any:
        """What the root of lark's tree stands for."""
        return self.transform(tree)

    def _span(self, children: Children) -> Span:
        present = [child for child in children if child is not None]
        first, last = present[0], present[-1]
        return Span(self._source, _start(first), _end(last))

    # --- items and statements ---

    def file(self, children: Children) -> tuple[s.Item, ...]:
        return children[0] or ()

    def items(self, children: Children) -> tuple[s.Item, ...]:
        return _nodes(children)

    def body(self, children: Children) -> tuple[s.Statement, ...]:
        return _nodes(children)

    def use(self, children: Children) -> s.Use:
        target = children[1]
        return s.Use(target.strip('"'), target.type == "STRING", self._span(children))

    def block(self, children: Children) -> s.Block:
        kind, header, _, body, _ = children
        return s.Block(self._name(kind), self._header(header), body or (), self._span(children))

    def _name(self, token: lark.Token) -> s.Name:
        return s.Name(str(token), self._span([token]))

    def _header(self, header: lark.Token | None) -> s.Name | s.Number | None:
        if header is None:
            return None
        return self._name(header) if header.type == "NAME" else self._number(header, None)

    def setting(self, children: Children) -> s.Setting:
        targets, operator, value, _, fallback = children
        add = operator.type == "PLUSEQ"
        span = Span(self._source, targets[0].span.start, (fallback or value).span.end)
        return s.Setting(targets, add, value, fallback, span)

    def targets(self, children: Children) -> tuple[s.Target, ...]:
        return _nodes(children)

    def target(self, children: Children) -> s.Target:
        first = children[0]
        if first.type == "STRING":
            return s.Target((s.Field(first[1:-1]),), True, self._span(children))
        steps = (s.Field(str(first)), *(step for step, _ in children[1:]))
        end = children[-1][1] if len(children) > 1 else first.end_pos
        return s.Target(steps, False, Span(self._source, first.start_pos, end))

    def field(self, children: Children) -> tuple[s.Field, int]:
        return s.Field(str(children[1])), children[1].end_pos

    def index(self, children: Children) -> tuple[s.Index, int]:
        return s.Index(str(children[1])), children[2].end_pos

    def choice(self, children: Children) -> tuple[s.Choice, int]:
        return s.Choice(children[2]), children[3].end_pos

    def names(self, children: Children) -> tuple[str, ...]:
        return tuple(str(name) for name in _tokens(children, "NAME"))

    # --- expressions ---

    def pipe(self, children: Children) -> s.Expr:
        stages = _nodes(children)
        return stages[0] if len(stages) == 1 else s.Pipe(stages, self._span(children))

    def sum_of(self, children: Children) -> s.Expr:
        terms = _nodes(children)
        return terms[0] if len(terms) == 1 else s.Sum(terms, self._span(children))

    def product(self, children: Children) -> s.Expr:
        factors = _nodes(children)
        operators = tuple(str(token) for token in children if isinstance(token, lark.Token))
        return s.Product(factors, operators, self._span(children)) if operators else factors[0]

    def repeat(self, children: Children) -> s.Expr:
        count, of, body = children
        return count if of is None else s.Repeat(count, body, self._span(children))

    def number(self, children: Children) -> s.Number:
        return self._number(children[0], children[1])

    def _number(self, token: lark.Token, word: lark.Token | None) -> s.Number:
        span = self._span([token, word])
        try:
            parse_quantity(str(token))
        except BadNumber as error:
            self._bag.add(c.BAD_NUMBER.at(span, str(error)))
        return s.Number(str(token), str(word or ""), span)

    def string(self, children: Children) -> s.String:
        return s.String(str(children[0])[1:-1], self._span(children))

    def ref(self, children: Children) -> s.Ref:
        return s.Ref(tuple(str(name) for name in _tokens(children, "NAME")), self._span(children))

    def call(self, children: Children) -> s.Invoke:
        callee, _, arguments, _ = children
        return s.Invoke(callee, arguments or (), self._span(children))

    def list_of(self, children: Children) -> s.ListOf:
        return s.ListOf(children[1] or (), self._span(children))

    def tuple_of(self, children: Children) -> s.Expr:
        items = children[1]
        return items[0] if len(items) == 1 else s.TupleOf(items, self._span(children))

    def range_of(self, children: Children) -> s.Range:
        return s.Range(children[0], children[2], self._span(children))

    def arguments(self, children: Children) -> tuple[s.Argument, ...]:
        return _nodes(children)

    def exprs(self, children: Children) -> tuple[s.Expr, ...]:
        return _nodes(children)

    def argument(self, children: Children) -> s.Argument:
        name, _, value = children
        return s.Argument(str(name) if name else None, value, self._span(children))

    def match(self, children: Children) -> s.Match | s.Invoke:
        _, subject, _, arms, close, open_call, arguments, _ = children
        matching = s.Match(str(subject), arms or (), self._span(children[:5]))
        del close
        if open_call is None:
            return matching
        return s.Invoke(matching, arguments or (), self._span(children))

    def arms(self, children: Children) -> tuple[s.Arm, ...]:
        return _nodes(children)

    def arm(self, children: Children) -> s.Arm:
        return s.Arm(children[0], children[2], self._span(children))
