"""Diagnostics -> text with the line and a caret, within 80 columns, or -> plain data for `--json`.

What comes from a user's text is shown without control characters, so that it cannot drive a terminal.
"""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

from moec.dsl.diagnostics import Diagnostic
from moec.dsl.limits import DIAGNOSTICS_SHOWN
from moec.dsl.source import Span

COLUMNS = 80
_CONTEXT = 24  # characters kept left of the caret where a long line is cut


def render_text(diagnostics: Sequence[Diagnostic]) -> str:
    """All diagnostics, and how many there are."""
    shown = [render_one(diagnostic) for diagnostic in diagnostics[:DIAGNOSTICS_SHOWN]]
    count = len(diagnostics)
    hidden = f", {count - len(shown)} not shown" if count > len(shown) else ""
    return "\n".join([*shown, f"{count} error{'s' if count != 1 else ''}{hidden}", ""])


def render_one(diagnostic: Diagnostic) -> str:
    """One diagnostic: title, place, the line with a caret, notes and help. Ends in a newline."""
    lines = _wrap(f"error[{diagnostic.code}]: {diagnostic.title}", "", "    ")
    if diagnostic.span is None:
        lines += _wrap(_clean(diagnostic.label), "  ", "  ")
        margin = "  "
    else:
        margin = " " * len(str(diagnostic.span.line))
        lines += _snippet(diagnostic.span, _clean(diagnostic.label), margin)
    for note in diagnostic.notes:
        lines += _wrap(_clean(note), f"{margin} = note: ", f"{margin}         ")
    if diagnostic.advice:
        lines += _wrap(_clean(diagnostic.advice), f"{margin} = help: ", f"{margin}         ")
    return "\n".join(lines) + "\n"


def render_data(diagnostics: Sequence[Diagnostic]) -> list[dict[str, object]]:
    """Diagnostics as plain data: one dictionary each, lines and columns from 1, the end exclusive."""
    return [_data(diagnostic) for diagnostic in diagnostics]


def _data(diagnostic: Diagnostic) -> dict[str, object]:
    span = diagnostic.span
    place: dict[str, object] = {
        "file": None,
        "line": None,
        "column": None,
        "end_line": None,
        "end_column": None,
    }
    if span is not None:
        place = {
            "file": span.source.name,
            "line": span.line,
            "column": span.column,
            "end_line": span.source.line_of(span.end),
            "end_column": span.source.column_of(span.end),
        }
    return {
        "code": diagnostic.code,
        "title": diagnostic.title,
        "message": diagnostic.label,
        **place,
        "notes": list(diagnostic.notes),
        "help": diagnostic.advice or None,
    }


def _snippet(span: Span, label: str, margin: str) -> list[str]:
    line, start, length = _window(span, COLUMNS - len(margin) - 3)
    before = " " * _cells(line[:start])
    caret = before + "^" * max(1, _cells(line[start : start + length]))
    body = [f"{margin}--> {_clean(span.source.name)}:{span.line}:{span.column}", f"{margin} |"]
    body.append(f"{span.line} | {line}".rstrip())
    lead = f"{margin} | {caret} "
    if len(lead) + _cells(label) <= COLUMNS:
        return [*body, lead + label]
    indent = f"{margin} | " + " " * min(len(before), COLUMNS // 2 - len(margin))
    return [*body, lead.rstrip(), *_wrap(label, indent, indent)]


def _window(span: Span, room: int) -> tuple[str, int, int]:
    """(the line, cut to `room` cells around the span, where the span starts in it, its length)."""
    raw = span.source.line_text(span.line)
    skipped = max(0, span.column - 1 - 2 * COLUMNS)
    line = _clean(raw[skipped : span.column + 4 * COLUMNS])
    start = min(span.column - 1 - skipped, len(line))
    end = len(line) if span.last_line > span.line else min(start + span.end - span.start, len(line))
    line, end = line.rstrip(), max(min(end, len(line.rstrip())), start)
    beyond = 1 if start >= len(line) else 0  # a caret behind the end of the line
    if _cells(line) + beyond <= room:
        return line, start, end - start
    first = max(0, start - _CONTEXT)
    head = "..." if first else ""
    cut = line[first : first + room]
    while _cells(head + cut) > room - 3:
        cut = cut[:-1]
    tail = "..." if first + len(cut) < len(line) else ""
    shift = start - first + len(head)
    return head + cut + tail, shift, min(end - start, len(head) + len(cut) - shift)


def _clean(text: str) -> str:
    """One printable character for each character of the text."""
    return "".join(char if char.isprintable() else " " if char in "\t\n\r" else "\ufffd" for char in text)


def _cells(text: str) -> int:
    """Columns a terminal takes for the text."""
    return sum(_cell(char) for char in text)


def _cell(char: str) -> int:
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def _wrap(text: str, first: str, rest: str) -> list[str]:
    if _cells(text) != len(text):
        return _wrap_cells(text, first, rest)
    return textwrap.wrap(
        text, COLUMNS, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
    ) or [first.rstrip()]


def _wrap_cells(text: str, first: str, rest: str) -> list[str]:
    """The same where characters are not one column each, which `textwrap` takes them to be."""
    lines = [first]
    begun = False  # whether the last line holds more than its indent
    for word in text.split():
        if begun and _cells(f"{lines[-1]} {word}") > COLUMNS:
            lines.append(rest)
            begun = False
        lines[-1] += " " if begun else ""
        for char in word:
            if _cells(lines[-1] + char) > COLUMNS:
                lines.append(rest)
            lines[-1] += char
        begun = True
    return [line.rstrip() for line in lines]
