"""The checker: a resolved syntax tree -> `Spec`, or every mistake in it."""

from __future__ import annotations

from .file import check_file

__all__ = ["check_file"]
