"""Diagnostics as data: what is wrong, where, and what would be right.

`render` turns them into text or JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import ParamSpec, TypeVar

from moec.dsl.limits import DIAGNOSTICS
from moec.dsl.source import Span

_WORD, _NAMES = 64, 500  # looked at for a suggestion, which costs their product

T = TypeVar("T")
P = ParamSpec("P")


@dataclass(frozen=True)
class Kind:
    """A kind of mistake: a stable code, a title of a few words, and a paragraph for `moec explain CODE`."""

    code: str
    title: str
    explanation: str

    def at(self, span: Span | None, label: str, *notes: str, advice: str = "") -> Diagnostic:
        """This mistake at a place; `label` stands beside the caret, `advice` says what to do."""
        return Diagnostic(self, span, label, notes, advice)


@dataclass(frozen=True)
class Diagnostic:
    """One mistake of the user's. `span` is None where the fault lies in no text (a missing file, say)."""

    kind: Kind
    span: Span | None
    label: str
    notes: tuple[str, ...] = ()
    advice: str = ""

    @property
    def code(self) -> str:
        """The stable code, such as MOE0103."""
        return self.kind.code

    @property
    def title(self) -> str:
        """The kind of mistake in a few words."""
        return self.kind.title


class Mistake(Exception):  # noqa: N818  (a user's mistake, not an error of ours)
    """Carries one diagnostic up to the nearest `DiagnosticBag.attempt`."""

    def __init__(self, diagnostic: Diagnostic) -> None:
        super().__init__(diagnostic.label)
        self.diagnostic = diagnostic


class SourceErrors(Exception):  # noqa: N818
    """Everything that is wrong with a text, in the order of its lines."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        assert diagnostics, "SourceErrors needs at least one diagnostic"
        super().__init__(diagnostics)
        self.diagnostics = tuple(diagnostics)

    def __str__(self) -> str:
        return "; ".join(f"{d.code} {_place(d)}{d.label}" for d in self.diagnostics)


def _place(diagnostic: Diagnostic) -> str:
    span = diagnostic.span
    return f"{span.source.name}:{span.line}: " if span else ""


class DiagnosticBag:
    """Collects mistakes so that a load reports all of them at once."""

    def __init__(self) -> None:
        self._found: list[Diagnostic] = []
        self._seen: set[tuple[object, ...]] = set()
        self.reports = 0  # calls of `add`, repetitions included

    def __len__(self) -> int:
        return len(self._found)

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep a diagnostic; the same mistake at the same place counts once."""
        span = diagnostic.span
        place = (id(span.source), span.start, span.end) if span else ()
        key = (diagnostic.code, diagnostic.label, *place)
        self.reports += 1
        if key not in self._seen and len(self._found) < DIAGNOSTICS:
            self._seen.add(key)
            self._found.append(diagnostic)

    def attempt(self, action: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """The result of `action`, or None after keeping the mistake it raised."""
        try:
            return action(*args, **kwargs)
        except Mistake as mistake:
            self.add(mistake.diagnostic)
            return None

    def raise_first(self) -> None:
        """Raise the first mistake collected, if there is any, for the caller's bag to keep."""
        if self._found:
            raise Mistake(self._found[0])

    def raise_if_any(self) -> None:
        """Raise `SourceErrors` with everything collected, by place, if there is anything."""
        if self._found:
            raise SourceErrors(sorted(self._found, key=_reading_order))


def _reading_order(diagnostic: Diagnostic) -> tuple[str, int, str]:
    span = diagnostic.span
    return (span.source.name, span.start, diagnostic.code) if span else ("", -1, diagnostic.code)


def closest(word: str, names: Sequence[str]) -> str:
    """`did you mean ...?` for the name closest to a misspelt word, or nothing."""
    close = get_close_matches(word[:_WORD], names[:_NAMES], n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else ""


def nearest(word: str, names: Sequence[str], hidden: Sequence[str] = ()) -> str:
    """The closest name, or the list of `names` if it is short; `hidden` are suggested but not listed."""
    found = closest(word, [*names, *hidden])
    if not found and len(names) == 1:
        return f"the only one is `{names[0]}`"
    if not found and 0 < len(names) <= 12:
        return "one of: " + ", ".join(f"`{name}`" for name in names)
    return found
