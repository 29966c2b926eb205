"""The `.moe` language: text -> `Spec`, or every mistake in the text. Imports nothing but lark."""

from __future__ import annotations

from moec.dsl.config import (
    check_config,
    checkpoint_config,
    checkpoint_overrides,
    spec_from_config,
    spec_with_config,
)
from moec.dsl.diagnostics import Diagnostic, SourceErrors
from moec.dsl.load import load, load_text, read_text
from moec.dsl.render import render_data, render_text
from moec.dsl.report import explain, explicit_text, format_text, summary, summary_text
from moec.dsl.spec import Spec

__all__ = [
    "Diagnostic",
    "SourceErrors",
    "Spec",
    "check_config",
    "checkpoint_config",
    "checkpoint_overrides",
    "explain",
    "explicit_text",
    "format_text",
    "load",
    "load_text",
    "read_text",
    "render_data",
    "render_text",
    "spec_from_config",
    "spec_with_config",
    "summary",
    "summary_text",
]
