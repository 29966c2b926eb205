"""What is wrong with a text, at places of that text, and what would put it right."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from moec.dsl.diagnostics import Diagnostic

from .document import Document
from .navigate import Edit

SCHEME = "moec-explain"
"""Of the links on codes: an editor shows what `moec explain CODE` prints."""


@dataclass(frozen=True)
class Problem:
    """One mistake at [start, end) of a document's text."""

    code: str
    message: str
    start: int
    end: int

    @property
    def link(self) -> str:
        """Where its kind is explained."""
        return f"{SCHEME}:/{self.code}"


def problems(document: Document) -> tuple[Problem, ...]:
    """Every mistake of a text. One of a text that it uses is shown at the `use`."""
    return tuple(_problem(document, diagnostic) for diagnostic in document.checked.diagnostics)


def _problem(document: Document, found: Diagnostic) -> Problem:
    span = found.span
    own = span is not None and span.source.text == document.text
    message = "\n".join(
        [f"{found.title}: {found.label}", *found.notes, *([found.advice] if found.advice else [])]
    )
    if span is not None and own:
        return Problem(found.code, message, span.start, max(span.end, span.start + 1))
    if span is not None:
        message = f"{span.source.name}:{span.line}: {message}"
    return Problem(found.code, message, *_first_use(document))


def _first_use(document: Document) -> tuple[int, int]:
    tokens = document.outline.tokens
    for token, target in pairwise(tokens):
        if token.kind == "USE":
            return token.span.start, target.span.end
    return 0, min(1, len(document.text))


_SUGGESTED = re.compile(r"did you mean `([^`]+)`\?")


def corrections(document: Document, start: int, end: int) -> list[tuple[Problem, Edit]]:
    """For the mistakes that touch [start, end): the nearest name in the place of a misspelt one."""
    found = []
    for problem in problems(document):
        suggested = _SUGGESTED.search(problem.message)
        touches = problem.start <= end and start <= problem.end
        wrong = document.text[problem.start : problem.end]
        if suggested and touches and wrong.isidentifier():
            found.append((problem, Edit(problem.start, problem.end, suggested[1])))
    return found
