"""Expressions as text: on one line, or broken over several from a column on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

from moec.dsl import syntax as s
from moec.dsl.limits import NUMBER_LENGTH
from moec.dsl.quantities import group

WIDTH = 88
INDENT = "    "

_LOOSE = (s.Pipe, s.Sum, s.Repeat)  # need parentheses inside `N of ...`
_IN_PRODUCT = (*_LOOSE, s.Product)  # need them inside a product


# --- on one line ---


def flat(expr: s.Expr) -> str:
    """An expression on one line."""
    match expr:
        case s.Number():
            return _number(expr)
        case s.String(text=text):
            return f'"{text}"'
        case s.Ref():
            return expr.text
        case s.Invoke():
            return f"{flat(expr.callee)}({', '.join(map(_argument, expr.arguments))})"
        case s.ListOf(items=items):
            return f"[{', '.join(map(flat, items))}]"
        case s.TupleOf(items=items):
            return f"({', '.join(map(flat, items))}{',' if len(items) == 1 else ''})"
        case s.Range(start=start, stop=stop):
            return f"{flat(start)}..{flat(stop)}"
        case s.Repeat(count=count, body=body):
            return f"{_inner(count, _LOOSE)} of {_inner(body, _LOOSE)}"
        case s.Pipe() | s.Sum() | s.Product():
            (first, *others), grouped = _operands(expr)
            return _inner(first[1], grouped) + "".join(f" {op} {_inner(one, grouped)}" for op, one in others)
        case s.Match(subject=subject, arms=arms):
            return f"match {subject} {{ {', '.join(f'{flat(a.pattern)} => {flat(a.value)}' for a in arms)} }}"


def _operands(expr: s.Pipe | s.Sum | s.Product) -> tuple[Sequence[tuple[str, s.Expr]], tuple[type, ...]]:
    """The parts with the operator before each, and what needs parentheses among them."""
    match expr:
        case s.Pipe(stages=parts):
            return [("|", part) for part in parts], (s.Pipe,)
        case s.Sum(terms=parts):
            return [("+", part) for part in parts], (s.Pipe, s.Sum)
        case s.Product():
            return expr.steps(), _IN_PRODUCT


def _inner(expr: s.Expr, grouped: tuple[type, ...]) -> str:
    return f"({flat(expr)})" if isinstance(expr, grouped) else flat(expr)


def _number(number: s.Number) -> str:
    digits = number.text.replace("_", "")
    grouped = group(int(digits)) if re.fullmatch(r"-?[0-9]{1,40}", digits) else number.text
    text = grouped if len(grouped) <= NUMBER_LENGTH else number.text
    return f"{text} {number.word}" if number.word else text


def _argument(argument: s.Argument) -> str:
    prefix = f"{argument.name}: " if argument.name else ""
    return prefix + flat(argument.value)


# --- over several lines ---


def broken(expr: s.Expr, column: int, indent: str, reserve: int = 0) -> list[str]:
    """The expression from `column` on: one line if it fits before `reserve` more characters, else several.

    `indent` is that of the statement or argument it belongs to.
    """
    text = flat(expr)
    if not has_comments(expr) and (column + len(text) + reserve <= WIDTH or _makes_tensor(expr)):
        return [text]
    match expr:
        case s.Invoke(callee=s.Ref()) if expr.arguments:
            return [f"{expr.name}(", *_arguments(expr, indent + INDENT), f"{indent})"]
        case s.Invoke(callee=s.Match() as callee):
            lines = _match(callee, indent)
            return _ended(lines, f"({', '.join(map(_argument, expr.arguments))})")
        case s.Match():
            return _match(expr, indent)
        case s.ListOf() if expr.items:
            return _list(expr, indent)
        case s.Repeat(count=count, body=body) if not isinstance(body, _LOOSE):
            head = f"{_inner(count, _LOOSE)} of "
            first, *others = broken(body, column + len(head), indent, reserve)
            return [head + first, *others]
        case s.Product():
            return _product(expr, column, indent, reserve)
        case s.Pipe() | s.Sum():
            return _filled(expr, column, indent, reserve)
    return [text]


def _makes_tensor(expr: s.Expr) -> bool:
    """`stack(e, concat("model.layers.{i}.experts"))`: rules of a weight map are read across, as a table."""
    while isinstance(expr, s.Invoke) and expr.arguments:
        expr = expr.arguments[-1].value
    return isinstance(expr, s.String)


def _arguments(call: s.Invoke, indent: str) -> list[str]:
    rows = _rows(call, indent)
    singles = [row[0] for row in rows if len(row) == 1]
    pad = max((len(a.name) + 2 if a.name else 0 for a in singles), default=0)
    lines: list[str] = []
    for row in rows:
        lines += _row(row, indent) if len(row) > 1 else _single(row[0], indent, pad)
    return lines + [line for line in comment_lines(call.tail, indent) if line]


def _rows(call: s.Invoke, indent: str) -> list[list[s.Argument]]:
    """The arguments by the lines they stand on, where the call is broken over lines in the text already."""
    rows: list[list[s.Argument]] = []
    for (_, line), together in groupby(call.arguments, key=lambda a: (a.span.source.name, a.span.line)):
        row = list(together)
        apart = line > call.callee.span.last_line and all(a.span.last_line == line for a in row)
        plain = not any(has_comments(a.value) for a in row) and not any(a.trivia.trailing for a in row[:-1])
        kept = apart and plain and len(_row_text(row, indent)) <= WIDTH
        rows += [row] if kept else [[argument] for argument in row]
    return rows


def _row_text(row: list[s.Argument], indent: str) -> str:
    return indent + ", ".join(map(_argument, row)) + ","


def _row(row: list[s.Argument], indent: str) -> list[str]:
    above = [line for line in comment_lines(row[0].trivia.leading, indent) if line]
    return above + end_comment(row[-1].trivia, [_row_text(row, indent)], 0)


def _single(argument: s.Argument, indent: str, pad: int) -> list[str]:
    head = indent + (f"{argument.name}:".ljust(pad) if argument.name else "")
    first, *others = broken(argument.value, len(head), indent, 1)
    above = [line for line in comment_lines(argument.trivia.leading, indent) if line]
    return above + end_comment(argument.trivia, _ended([head + first, *others], ","), 0)


def _ended(lines: list[str], end: str) -> list[str]:
    return [*lines[:-1], lines[-1] + end]


def _match(match: s.Match, indent: str) -> list[str]:
    inner = indent + INDENT
    pad = max((len(flat(arm.pattern)) for arm in match.arms), default=0)
    lines = [f"match {match.subject} {{"]
    for arm in match.arms:
        lines += [line for line in comment_lines(arm.trivia.leading, inner) if line]
        head = f"{inner}{flat(arm.pattern).ljust(pad)} => "
        first, *others = broken(arm.value, len(head), inner)
        lines += end_comment(arm.trivia, [head + first, *others], 0)
    lines += [line for line in comment_lines(match.tail, inner) if line]
    return [*lines, indent + "}"]


def _list(expr: s.ListOf, indent: str) -> list[str]:
    inner = indent + INDENT
    items = [flat(item) for item in expr.items]
    if any(isinstance(item, s.String) for item in expr.items):
        return ["[", *(f"{inner}{item}," for item in items), f"{indent}]"]
    lines, line = [], inner
    for item in items:
        if len(line) + len(item) + 1 > WIDTH and line.strip():
            lines.append(line.rstrip())
            line = inner
        line += f"{item}, "
    return ["[", *lines, line.rstrip(), f"{indent}]"]


def _product(expr: s.Product, column: int, indent: str, reserve: int) -> list[str]:
    """The longest factor broken, the others before and after it."""
    longest = max(range(len(expr.factors)), key=lambda i: len(flat(expr.factors[i])))
    texts = [_inner(factor, _IN_PRODUCT) for factor in expr.factors]
    before = "".join(f"{texts[i]} {expr.operators[i]} " for i in range(longest))
    after = "".join(f" {expr.operators[i - 1]} {texts[i]}" for i in range(longest + 1, len(texts)))
    first, *others = _part(
        expr.factors[longest], _IN_PRODUCT, column + len(before), indent, reserve + len(after)
    )
    return _ended([before + first, *others], after)


def _filled(expr: s.Pipe | s.Sum, column: int, indent: str, reserve: int) -> list[str]:
    """As many parts on a line as fit; the next line starts with the operator, under the first part.

    A part that is too long for a line of its own is broken itself.
    """
    (first, *others), grouped = _operands(expr)
    lines = _part(first[1], grouped, column, indent, reserve)
    for operator, one in others:
        text = f"{operator} {_inner(one, grouped)}"
        start = column if len(lines) == 1 else 0
        if start + len(lines[-1]) + 1 + len(text) + reserve <= WIDTH:
            lines[-1] += " " + text
        else:
            begin = " " * column + f"{operator} "
            part = _part(one, grouped, len(begin), indent, reserve)
            lines += [begin + part[0], *part[1:]]
    return lines


def _part(expr: s.Expr, grouped: tuple[type, ...], column: int, indent: str, reserve: int) -> list[str]:
    if isinstance(expr, grouped):
        return [_inner(expr, grouped)]
    return broken(expr, column, indent, reserve)


# --- comments ---


def comment(text: str) -> str:
    """A comment as it is written, with its `#`."""
    return "#" + text if text[:1] in ("", " ", "!", "#") else "# " + text


def comment_lines(comments: tuple[str, ...], indent: str) -> list[str]:
    """Comments above a node, each on a line of its own; "" stays a blank line."""
    return [f"{indent}{comment(text)}" if text else "" for text in comments]


def end_comment(trivia: s.Trivia, lines: list[str], column: int) -> list[str]:
    """The lines with a node's comment at the end of the last."""
    if trivia.trailing is None:
        return lines
    return [*lines[:-1], f"{lines[-1].ljust(column)}  {comment(trivia.trailing)}"]


def has_comments(node: s.Expr | s.Item | s.Argument | s.Arm) -> bool:
    """Whether comments stand inside a node, so that it cannot be printed on one line."""
    match node:
        case s.Setting(value=value):
            return _own_comments(node.trivia) or has_comments(value)
        case s.Argument(value=value) | s.Arm(value=value):
            return _own_comments(node.trivia) or has_comments(value)
        case s.Invoke():
            return bool(node.tail) or has_comments(node.callee) or any(map(has_comments, node.arguments))
        case s.Match():
            return bool(node.tail) or any(map(has_comments, node.arms))
    return False


def _own_comments(trivia: s.Trivia) -> bool:
    return trivia.trailing is not None or any(trivia.leading)
