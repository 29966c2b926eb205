"""What the tests of the language share."""

from __future__ import annotations

from collections.abc import Sequence

from moec import dsl, models
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.parse import parse_text
from moec.dsl.source import SourceText
from moec.dsl.syntax import File

SMALL = """\
model small {
    vocab   = 320
    width   = 64
    context = 128

    norm      = rms_norm(eps: 1e-5)
    attention = gqa(heads: 4, kv_heads: 2)
    experts   = moe(experts: 4 of swiglu(96), router: softmax | top(2) | renormalize)

    layers 2 {
        x += attention(norm(x))
        x += experts(norm(x))
    }

    logits = linear(norm(x))
}
"""


def load(text: str, *overrides: str) -> dsl.Spec:
    """A text that may use shipped models."""
    return dsl.load_text(text, overrides=overrides, find_model=models.read, shipped=models.names())


def errors(text: str, *overrides: str) -> tuple[dsl.Diagnostic, ...]:
    """The diagnostics of a text that is wrong."""
    try:
        load(text, *overrides)
    except dsl.SourceErrors as found:
        return found.diagnostics
    raise AssertionError("the text is accepted")


def codes(diagnostics: Sequence[dsl.Diagnostic]) -> set[str]:
    return {diagnostic.code for diagnostic in diagnostics}


def tree(text: str) -> File:
    """The syntax tree of a text without syntax errors."""
    bag = DiagnosticBag()
    file = parse_text(SourceText("<text>", text), bag)
    bag.raise_if_any()
    return file


def edited(text: str, old: str, new: str) -> str:
    """The text with one passage replaced; the passage must be there."""
    assert old in text, old
    return text.replace(old, new, 1)
