"""The checker: a resolved syntax tree -> `Spec`, or every mistake in it."""

from __future__ import annotations

from moec.dsl.check.file import check_file

__all__ = ["check_file"]
