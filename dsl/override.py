"""`--set PATH=VALUE` as an edit of the syntax tree.

The value is checked later like any other; its place is in the text of the override.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from moec.dsl import catalogue as c
from moec.dsl import syntax as s
from moec.dsl.diagnostics import DiagnosticBag, Mistake
from moec.dsl.limits import OVERRIDES
from moec.dsl.parse import parse_expression
from moec.dsl.paths import NoPath, write
from moec.dsl.source import SourceText, Span

_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*){0,15}")
_LENGTH = 100_000  # characters of one override


def apply_overrides(
    file: s.File, overrides: Sequence[str], bag: DiagnosticBag, given_by: str = "--set"
) -> s.File:
    """The tree with every override applied, in order. Mistakes go to the bag, in a text called `given_by`."""
    if len(overrides) > OVERRIDES:
        bag.add(c.TOO_LARGE.at(None, f"at most {OVERRIDES} overrides"))
        return file
    for text in overrides:
        file = bag.attempt(_apply, file, text, bag, given_by) or file
    return file


def _apply(file: s.File, text: str, bag: DiagnosticBag, given_by: str) -> s.File:
    path, equals, value_text = text.partition("=")
    source = SourceText(given_by, text[:_LENGTH])
    whole = Span(source, 0, len(source.text))
    if not equals or not value_text.strip() or len(text) > _LENGTH:
        raise Mistake(c.BAD_OVERRIDE.at(whole, "expected PATH=VALUE, such as `train.sequence=128`"))
    if not _PATH.fullmatch(path.strip()):
        place = Span(source, 0, len(path))
        raise Mistake(c.BAD_OVERRIDE.at(place, "a path is names joined by `.`, such as `train.sequence`"))
    value = parse_expression(source, bag, len(path) + 1)
    if value is None:
        return file
    steps = path.strip().split(".")
    try:
        return write(file, steps, value)
    except NoPath as error:
        place = _step_span(source, path, error.step)
        raise Mistake(c.UNKNOWN_PATH.at(place, error.label, advice=error.advice)) from None


def _step_span(source: SourceText, path: str, step: int) -> Span:
    parts = path.split(".")
    step = min(step, len(parts) - 1)
    start = sum(len(part) + 1 for part in parts[:step])
    return Span(source, start, start + len(parts[step]))
