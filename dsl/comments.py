"""Comments go to the nodes they stand beside, so that edits of the tree and the formatter keep them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar, cast

from moec.dsl import syntax as s
from moec.dsl.source import SourceText, Span
from moec.dsl.tokens import Comment

Child = s.Item | s.Argument | s.Arm
Node = TypeVar("Node", bound=Child)


def attach(file: s.File, comments: Sequence[Comment]) -> s.File:
    """The same tree with every comment as trivia of a node, above it or at the end of its line.

    Comments in places where the formatter has no line of its own (inside a pipeline, say) move above the
    statement.
    """
    work = _Attach(list(comments))
    items, tail = work.children(file.items, 0, file.span.end)
    return replace(file, items=items, tail=tail)


class _Attach:
    """Hands out comments in the order of the text."""

    def __init__(self, comments: list[Comment]) -> None:
        self._comments = comments
        self._next = 0

    def _take_before(self, offset: int) -> list[Comment]:
        start = self._next
        while self._next < len(self._comments) and self._comments[self._next].span.start < offset:
            self._next += 1
        return self._comments[start : self._next]

    def _take_trailing(self, span: Span, limit: int) -> Comment | None:
        if self._next == len(self._comments):
            return None
        comment = self._comments[self._next]
        if comment.span.start >= limit or comment.span.line != span.last_line:
            return None
        self._next += 1
        return comment

    def children(
        self, nodes: Sequence[Node], start: int, end: int
    ) -> tuple[tuple[Node, ...], tuple[str, ...]]:
        """The nodes of one container with their comments, and the comments left before its end."""
        result: list[Node] = []
        position = start
        for index, node in enumerate(nodes):
            before = self._take_before(node.span.start)
            inner, strays = self.inside(node)
            limit = nodes[index + 1].span.start if index + 1 < len(nodes) else end
            trailing = self._take_trailing(node.span, limit)
            leading = _lines([*before, *strays], position, node.span)
            trivia = s.Trivia(leading, trailing.text if trailing else None)
            result.append(cast("Node", replace(inner, trivia=trivia)))  # `inside` keeps the kind of node
            position = trailing.span.end if trailing else node.span.end
        source = nodes[0].span.source if nodes else None
        rest = self._take_before(end)
        tail = _lines(rest, position, Span(source or rest[0].span.source, end, end)) if rest else ()
        return tuple(result), _strip_end(tail)

    def inside(self, node: Child) -> tuple[Child, list[Comment]]:
        """The node with the comments inside it placed, and those that have no place there."""
        match node:
            case s.Block():
                body, tail = self.children(node.body, _brace(node), node.span.end)
                return replace(node, body=body, tail=tail), []
            case s.Setting() | s.Argument() | s.Arm():
                value = self.value(node.value)
                return replace(node, value=value), self._take_before(node.span.end)
        return node, self._take_before(node.span.end)

    def value(self, expr: s.Expr) -> s.Expr:
        match expr:
            case s.Invoke(callee=s.Ref()) if expr.arguments:
                arguments, tail = self.children(expr.arguments, expr.callee.span.end, expr.span.end)
                return replace(expr, arguments=arguments, tail=tail)
            case s.Match():
                return self._match(expr)
            case s.Invoke(callee=s.Match() as callee):
                return replace(expr, callee=self._match(callee))
        return expr

    def _match(self, expr: s.Match) -> s.Match:
        arms, tail = self.children(expr.arms, expr.span.start, expr.span.end)
        return replace(expr, arms=arms, tail=tail)


def _brace(block: s.Block) -> int:
    return (block.header or block.kind).span.end


def _lines(comments: Sequence[Comment], position: int, node: Span) -> tuple[str, ...]:
    """Comment lines above a node, with "" where a blank line stands before one of them or before the node."""
    source = node.source
    lines: list[str] = []
    for comment in comments:
        if _blank_between(source, position, comment.span.start):
            lines.append("")
        lines.append(comment.text)
        position = comment.span.end
    if _blank_between(source, position, node.start):
        lines.append("")
    return tuple(lines)


def _blank_between(source: SourceText, start: int, end: int) -> bool:
    return source.text.count("\n", start, end) > 1 and not source.text[start:end].strip(", \t\r\n{(")


def _strip_end(lines: tuple[str, ...]) -> tuple[str, ...]:
    return lines[:-1] if lines and lines[-1] == "" else lines
