"""The canonical text of a syntax tree. Formatting a formatted text changes nothing; comments are kept.

Consecutive settings align their `=`, arguments that stand one per line align their values, whole numbers from
10_000 up are grouped by `_`, and what fits on one line of 88 columns stands on one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from moec.dsl import syntax as s
from moec.dsl.quantities import group

WIDTH = 88
INDENT = "    "


def format_file(file: s.File) -> str:
    """The whole text, ending in one newline (or empty)."""
    lines = _body(file.items, file.tail, "", top=True)
    return "\n".join(lines) + "\n" if lines else ""


def format_expression(expr: s.Expr) -> str:
    """An expression on one line."""
    return _flat(expr)


# --- statements ---


@dataclass(frozen=True)
class _Chunk:
    """One statement: its head up to the alignment column, and a way to print the rest from that column on."""

    node: s.Item
    head: str
    rest: Callable[[int], list[str]]  # given the column of its first character
    group: str  # chunks of one group that follow each other align


def _body(items: Sequence[s.Item], tail: tuple[str, ...], indent: str, top: bool = False) -> list[str]:
    lines: list[str] = []
    for chunks in _groups([_chunk(item, indent) for item in items]):
        pad = max(len(chunk.head) for chunk in chunks)
        printed = [_printed(chunk, indent, pad if len(chunks) > 1 else 0) for chunk in chunks]
        for chunk, text in zip(chunks, _with_trailing(chunks, printed), strict=True):
            lines += _leading(chunk.node.trivia, indent, lines, top and len(text) > 1)
            lines += text
    ending = _comment_lines(tail, indent)
    return lines + (ending if lines else [line for line in ending if line])


def _leading(trivia: s.Trivia, indent: str, before: list[str], set_apart: bool) -> list[str]:
    """Comments and at most one blank line above a statement; `set_apart` asks for the blank line."""
    lines = _comment_lines(trivia.leading, indent)
    if not before:
        while lines and not lines[0]:
            lines.pop(0)
        return lines
    return ["", *lines] if set_apart and "" not in lines[:1] else lines


def _comment_lines(comments: tuple[str, ...], indent: str) -> list[str]:
    return [f"{indent}{_comment(text)}" if text else "" for text in comments]


def _comment(text: str) -> str:
    return "#" + text if text[:1] in ("", " ", "!", "#") else "# " + text


def _groups(chunks: list[_Chunk]) -> list[list[_Chunk]]:
    """Chunks that align with each other: neighbours of one kind with no blank line between."""
    groups: list[list[_Chunk]] = []
    for chunk in chunks:
        follows = groups and groups[-1][-1].group == chunk.group and "" not in chunk.node.trivia.leading
        if follows and chunk.group:
            groups[-1].append(chunk)
        else:
            groups.append([chunk])
    return groups


def _printed(chunk: _Chunk, indent: str, pad: int) -> list[str]:
    head = indent + chunk.head.ljust(pad)
    first, *others = chunk.rest(len(head))
    return [(head + first).rstrip(), *others]


def _with_trailing(chunks: list[_Chunk], printed: list[list[str]]) -> list[list[str]]:
    """Put comments at the ends of lines, in one column where neighbours have them."""
    result = []
    pairs = list(zip(chunks, printed, strict=True))
    for one_line, run in groupby(
        pairs, key=lambda p: len(p[1]) == 1 and p[0].node.trivia.trailing is not None
    ):
        members = list(run)
        column = max(len(lines[-1]) for _, lines in members) if one_line else 0
        result += [_end_comment(chunk.node.trivia, lines, column) for chunk, lines in members]
    return result


def _end_comment(trivia: s.Trivia, lines: list[str], column: int) -> list[str]:
    if trivia.trailing is None:
        return lines
    return [*lines[:-1], f"{lines[-1].ljust(column)}  {_comment(trivia.trailing)}"]


def _chunk(item: s.Item, indent: str) -> _Chunk:
    match item:
        case s.Use():
            target = f'"{item.target}"' if item.quoted else item.target
            return _Chunk(item, f"use {target}", lambda _: [""], "")
        case s.Setting():
            return _setting_chunk(item, indent)
        case s.Block():
            return _block_chunk(item, indent)


def _setting_chunk(setting: s.Setting, indent: str) -> _Chunk:
    operator = " += " if setting.add else " = "
    ending = f" else {_flat(setting.fallback)}" if setting.fallback is not None else ""

    def rest(column: int) -> list[str]:
        lines = _broken(setting.value, column + len(operator), indent, len(ending))
        lines[-1] += ending
        return [operator + lines[0], *lines[1:]]

    return _Chunk(setting, " | ".join(map(_target, setting.targets)), rest, "setting")


def _target(target: s.Target) -> str:
    return f'"{target.text}"' if target.quoted else target.text


def _block_chunk(block: s.Block, indent: str) -> _Chunk:
    header = f" {_header(block.header)}" if block.header else ""
    head = block.kind.text + header
    one_line = _one_line_block(block, indent, len(head))
    if one_line is not None:
        return _Chunk(block, head, lambda _: [one_line], "" if header else "one-line block")

    def rest(_column: int) -> list[str]:
        return [" {", *_body(block.body, block.tail, indent + INDENT), indent + "}"]

    return _Chunk(block, head, rest, "")


def _header(header: s.Name | s.Number) -> str:
    return header.text if isinstance(header, s.Name) else _flat(header)


def _one_line_block(block: s.Block, indent: str, head: int) -> str | None:
    """A block stays on one line if it was written so, fits, and holds settings without comments."""
    if not block.body and not block.tail:
        return " {}"
    written_so = block.span.line == block.span.last_line
    if not written_so or block.tail or any(_has_comments(statement) for statement in block.body):
        return None
    settings = block.settings()
    if len(settings) != len(block.body):
        return None
    text = " { " + ", ".join(_flat_setting(setting) for setting in settings) + " }"
    return text if len(indent) + head + len(text) <= WIDTH else None


def _flat_setting(setting: s.Setting) -> str:
    operator = " += " if setting.add else " = "
    ending = f" else {_flat(setting.fallback)}" if setting.fallback is not None else ""
    return " | ".join(map(_target, setting.targets)) + operator + _flat(setting.value) + ending


# --- expressions ---

_LOOSE = (s.Pipe, s.Sum, s.Product, s.Repeat)  # need parentheses inside `N of ...`
_LOOSER = (s.Pipe, s.Sum, s.Product)  # need them inside a product


def _flat(expr: s.Expr) -> str:
    match expr:
        case s.Number():
            return _number(expr)
        case s.String(text=text):
            return f'"{text}"'
        case s.Ref():
            return expr.text
        case s.Invoke():
            return f"{_flat(expr.callee)}({', '.join(map(_argument, expr.arguments))})"
        case s.ListOf(items=items):
            return f"[{', '.join(map(_flat, items))}]"
        case s.TupleOf(items=items):
            return f"({', '.join(map(_flat, items))}{',' if len(items) == 1 else ''})"
        case s.Range(start=start, stop=stop):
            return f"{_flat(start)}..{_flat(stop)}"
        case s.Repeat(count=count, body=body):
            return f"{_flat_inner(count, _LOOSE)} of {_flat_inner(body, _LOOSE)}"
        case s.Pipe(stages=stages):
            return " | ".join(_flat_inner(stage, (s.Pipe,)) for stage in stages)
        case s.Sum(terms=terms):
            return " + ".join(_flat_inner(term, (s.Pipe, s.Sum)) for term in terms)
        case s.Product():
            return _product(expr)
        case s.Match(subject=subject, arms=arms):
            return (
                f"match {subject} {{ {', '.join(f'{_flat(a.pattern)} => {_flat(a.value)}' for a in arms)} }}"
            )


def _flat_inner(expr: s.Expr, grouped: tuple[type, ...]) -> str:
    return f"({_flat(expr)})" if isinstance(expr, grouped) else _flat(expr)


def _product(product: s.Product) -> str:
    first, *others = product.steps()
    ending = "".join(f" {operator} {_flat_inner(factor, _LOOSER)}" for operator, factor in others)
    return _flat_inner(first[1], _LOOSER) + ending


def _number(number: s.Number) -> str:
    digits = number.text.replace("_", "")
    text = group(int(digits)) if re.fullmatch(r"-?[0-9]{1,40}", digits) else number.text
    return f"{text} {number.word}" if number.word else text


def _argument(argument: s.Argument) -> str:
    prefix = f"{argument.name}: " if argument.name else ""
    return prefix + _flat(argument.value)


def _broken(expr: s.Expr, column: int, indent: str, reserve: int = 0) -> list[str]:
    """The expression from `column` on: one line if it fits before `reserve` more characters, else several."""
    flat = _flat(expr)
    if column + len(flat) + reserve <= WIDTH and not _has_comments(expr):
        return [flat]
    match expr:
        case s.Invoke(callee=s.Ref()) if expr.arguments:
            return [f"{expr.name}(", *_arguments(expr, indent + INDENT), f"{indent})"]
        case s.Invoke(callee=s.Match() as callee):
            lines = _broken_match(callee, indent)
            return [*lines[:-1], lines[-1] + f"({', '.join(map(_argument, expr.arguments))})"]
        case s.Match():
            return _broken_match(expr, indent)
        case s.ListOf() if expr.items:
            return _broken_list(expr, indent)
        case s.Pipe() | s.Sum():
            return _filled(expr, column, reserve)
    return [flat]


def _arguments(call: s.Invoke, indent: str) -> list[str]:
    pad = max(len(a.name) + 2 if a.name else 0 for a in call.arguments)
    lines: list[str] = []
    for argument in call.arguments:
        head = indent + (f"{argument.name}:".ljust(pad) if argument.name else "")
        first, *others = _broken(argument.value, len(head), indent, 1)
        lines += [line for line in _comment_lines(argument.trivia.leading, indent) if line]
        lines += _end_comment(argument.trivia, _ended([head + first, *others], ","), 0)
    return lines + [line for line in _comment_lines(call.tail, indent) if line]


def _ended(lines: list[str], end: str) -> list[str]:
    return [*lines[:-1], lines[-1] + end]


def _broken_match(match: s.Match, indent: str) -> list[str]:
    inner = indent + INDENT
    pad = max((len(_flat(arm.pattern)) for arm in match.arms), default=0)
    lines = [f"match {match.subject} {{"]
    for arm in match.arms:
        lines += [line for line in _comment_lines(arm.trivia.leading, inner) if line]
        text = f"{inner}{_flat(arm.pattern).ljust(pad)} => {_flat(arm.value)}"
        lines += _end_comment(arm.trivia, [text], 0)
    lines += [line for line in _comment_lines(match.tail, inner) if line]
    return [*lines, indent + "}"]


def _broken_list(expr: s.ListOf, indent: str) -> list[str]:
    inner = indent + INDENT
    items = [_flat(item) for item in expr.items]
    if any(isinstance(item, s.String) for item in expr.items):
        return ["[", *(f"{inner}{item}," for item in items), f"{indent}]"]
    lines, line = [], inner
    for item in items:
        if len(line) + len(item) + 1 > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = inner
        line += f"{item}, "
    return ["[", *lines, line.rstrip(), f"{indent}]"]


def _filled(expr: s.Pipe | s.Sum, column: int, reserve: int) -> list[str]:
    """As many parts on a line as fit; the next line starts with the operator, under the first part."""
    operator, parts = ("|", expr.stages) if isinstance(expr, s.Pipe) else ("+", expr.terms)
    grouped = (s.Pipe,) if isinstance(expr, s.Pipe) else (s.Pipe, s.Sum)
    lines = [_flat_inner(parts[0], grouped)]
    for part in parts[1:]:
        text = f"{operator} {_flat_inner(part, grouped)}"
        start = column if len(lines) == 1 else 0
        if start + len(lines[-1]) + 1 + len(text) + reserve <= WIDTH:
            lines[-1] += " " + text
        else:
            lines.append(" " * column + text)
    return lines


def _has_comments(node: s.Expr | s.Item | s.Argument | s.Arm) -> bool:
    """Whether comments stand inside a node, so that it cannot be printed on one line."""
    match node:
        case s.Setting(value=value):
            return _own_comments(node.trivia) or _has_comments(value)
        case s.Argument(value=value) | s.Arm(value=value):
            return _own_comments(node.trivia) or _has_comments(value)
        case s.Invoke():
            return bool(node.tail) or _has_comments(node.callee) or any(map(_has_comments, node.arguments))
        case s.Match():
            return bool(node.tail) or any(map(_has_comments, node.arms))
    return False


def _own_comments(trivia: s.Trivia) -> bool:
    return trivia.trailing is not None or any(trivia.leading)
