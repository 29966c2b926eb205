"""What holds for every text, whatever is in it."""

from __future__ import annotations

import re
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from unicodedata import combining, east_asian_width

from moec import dsl, models
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.parse import parse_text
from moec.dsl.source import SourceText

CPU_LIMIT_S = 20.0  # of one text, some thousand times what most take: only what hangs comes near
MEMORY_LIMIT_BYTES = 200 << 20  # more than there was before


class HangError(Exception):
    """A text takes longer than any may."""


@contextmanager
def bounded() -> Iterator[None]:
    """Processor time and memory of what is done inside are limited: beyond, it raises."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise HangError(f"more than {CPU_LIMIT_S:g} s")

    used = int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, CPU_LIMIT_S)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_LIMIT_BYTES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, handler)


Result = dsl.Spec | tuple[dsl.Diagnostic, ...]


def check(text: str) -> Result:
    """What a text means, or what is wrong with it; anything else is a bug."""
    try:
        return dsl.load_text(
            text, find_model=models.read, shipped=models.names(), folder=Path("/nonexistent")
        )
    except dsl.SourceErrors as errors:
        return errors.diagnostics


def holds(text: str) -> None:
    """Fails where the language does not keep its promises for a text."""
    with bounded():
        found = check(text)
        if not isinstance(found, dsl.Spec):
            _can_be_shown(found)
        if _has_form(text):
            _format_keeps_meaning(text, found)


def _can_be_shown(found: tuple[dsl.Diagnostic, ...]) -> None:
    shown = dsl.render_text(found)
    assert all(line.isprintable() or not line for line in shown.split("\n")), shown
    assert all(_columns(line) <= 80 for line in shown.split("\n")), shown
    assert len(dsl.render_data(found)) == len(found)
    assert all(dsl.explain(one.code) for one in found)


def _columns(line: str) -> int:
    """What a terminal needs for a line."""
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in line)


def _has_form(text: str) -> bool:
    """Whether a text can be formatted: it has no syntax error."""
    bag = DiagnosticBag()
    parse_text(SourceText("<fuzz>", text), bag)
    return not len(bag) and len(text) < 1 << 20


def _format_keeps_meaning(text: str, found: Result) -> None:
    formatted = dsl.format_text(text)
    assert dsl.format_text(formatted) == formatted, "formatting is no fixed point"
    again = check(formatted)
    if isinstance(found, dsl.Spec):
        assert again == found, "formatting changes the meaning"
        assert check(found.text) == found, "the resolved text means something else"
    else:
        assert not isinstance(again, dsl.Spec), "formatting makes a wrong text right"
        assert _said(again) == _said(found), "formatting changes what is wrong"


def _said(found: tuple[dsl.Diagnostic, ...]) -> list[tuple[str, ...]]:
    """What is said, without places, and numbers as if they were written without `_`."""
    said = [(d.code, d.label, *d.notes, d.advice) for d in found]
    return sorted(tuple(re.sub(r"(?<=[0-9])_(?=[0-9])", "", part) for part in one) for one in said)


def smallest(text: str, fails: Callable[[str], bool], tries: int = 2000) -> str:
    """A text that still fails, from which nothing more can be taken in one piece."""
    size = max(1, len(text) // 2)
    while size and tries > 0:
        start = 0
        while start < len(text) and tries > 0:
            shorter = text[:start] + text[start + size :]
            tries -= 1
            if fails(shorter):
                text = shorter
            else:
                start += size
        size //= 2
    return text


def problem(text: str) -> BaseException | None:
    """What `holds` raises."""
    try:
        holds(text)
    except (Exception, RecursionError) as error:
        return error
    return None
