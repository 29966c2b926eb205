"""A TextMate grammar of flat rules, applied as an editor does: the leftmost match, of the first rule."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

Scoped = tuple[str, str]
"""(characters, innermost scope); "" where no rule matches."""


def scopes(grammar: dict[str, Any], text: str) -> list[Scoped]:
    """The text in pieces with their scopes, blanks left out."""
    rules = grammar["patterns"]
    pieces = (piece for line in text.split("\n") for piece in _line(rules, line))
    return [(part, scope) for part, scope in pieces if part.strip()]


def _line(rules: list[dict[str, Any]], line: str, outer: str = "") -> Iterator[Scoped]:
    position = 0
    while position < len(line):
        found, rule = _first(rules, line, position)
        if found is None:
            break
        yield line[position : found.start()], outer
        yield from _captured(rule, found, rule.get("name", outer))
        assert found.end() > position, f"{rule} matches nothing"
        position = found.end()
    yield line[position:], outer


def _first(
    rules: list[dict[str, Any]], line: str, position: int
) -> tuple[re.Match[str] | None, dict[str, Any]]:
    best: tuple[re.Match[str] | None, dict[str, Any]] = (None, {})
    for rule in rules:
        found = re.compile(rule["match"]).search(line, position)
        if found is not None and (best[0] is None or found.start() < best[0].start()):
            best = (found, rule)
    return best


def _captured(rule: dict[str, Any], found: re.Match[str], scope: str) -> Iterator[Scoped]:
    captures = rule.get("captures", {})
    if "0" in captures:
        yield from _line(captures["0"]["patterns"], found.group(), scope)
        return
    position = found.start()
    for number, capture in captures.items():
        start, end = found.span(int(number))
        if start >= 0:
            yield found.string[position:start], scope
            yield found.string[start:end], capture["name"]
            position = end
    yield found.string[position : found.end()], scope
