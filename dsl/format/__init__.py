"""The canonical text of a syntax tree. Formatting a formatted text changes nothing; comments are kept.

Consecutive settings align their `=`, arguments that stand one per line align their values, whole numbers from
10_000 up are grouped by `_`, and what fits on one line of 88 columns stands on one. In a call that the text
breaks over lines, arguments it puts on one line stay on one.
"""

from __future__ import annotations

from .expressions import flat as format_expression
from .statements import format_file as format_file

__all__ = ["format_expression", "format_file"]
