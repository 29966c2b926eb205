"""The `.moe` language: text -> `Spec`, or every mistake in the text. Imports nothing but lark."""

from __future__ import annotations

from moec.dsl.diagnostics import Diagnostic, SourceErrors
from moec.dsl.load import load, load_text
from moec.dsl.spec import Spec

__all__ = ["Diagnostic", "SourceErrors", "Spec", "load", "load_text"]
