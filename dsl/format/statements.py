"""Statements and blocks as lines: alignment, blank lines, comments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from moec.dsl import syntax as s

from .expressions import INDENT, WIDTH, broken, comment_lines, end_comment, flat, has_comments


def format_file(file: s.File) -> str:
    """The whole text, ending in one newline (or empty)."""
    lines = _body(file.items, file.tail, "", top=True)
    return "\n".join(lines) + "\n" if lines else ""


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
            set_apart = top and isinstance(chunk.node, s.Block) and len(text) > 1
            lines += _leading(chunk.node.trivia, indent, lines, set_apart)
            lines += text
    ending = comment_lines(tail, indent)
    return lines + (ending if lines else [line for line in ending if line])


def _leading(trivia: s.Trivia, indent: str, before: list[str], set_apart: bool) -> list[str]:
    """Comments and at most one blank line above a statement; `set_apart` asks for the blank line."""
    lines = comment_lines(trivia.leading, indent)
    if not before:
        while lines and not lines[0]:
            lines.pop(0)
        return lines
    return ["", *lines] if set_apart and "" not in lines[:1] else lines


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
        result += [end_comment(chunk.node.trivia, lines, column) for chunk, lines in members]
    return result


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
    ending = f" else {flat(setting.fallback)}" if setting.fallback is not None else ""

    def rest(column: int) -> list[str]:
        lines = broken(setting.value, column + len(operator), indent, len(ending))
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
    return header.text if isinstance(header, s.Name) else flat(header)


def _one_line_block(block: s.Block, indent: str, head: int) -> str | None:
    """A block stays on one line if it was written so, fits, and holds settings without comments."""
    if not block.body and not block.tail:
        return " {}"
    written_so = block.span.line == block.span.last_line
    if not written_so or block.tail or any(has_comments(statement) for statement in block.body):
        return None
    settings = block.settings()
    if len(settings) != len(block.body):
        return None
    text = " { " + ", ".join(_flat_setting(setting) for setting in settings) + " }"
    return text if len(indent) + head + len(text) <= WIDTH else None


def _flat_setting(setting: s.Setting) -> str:
    operator = " += " if setting.add else " = "
    ending = f" else {flat(setting.fallback)}" if setting.fallback is not None else ""
    return " | ".join(map(_target, setting.targets)) + operator + flat(setting.value) + ending
