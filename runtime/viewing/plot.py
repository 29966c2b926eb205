"""Numbers as characters: a curve over some lines, and a bar for each number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

BLOCKS = " ▁▂▃▄▅▆▇█"
ASCII_BLOCKS = " .:-=+*%#"
"""From nothing to full, for terminals and for encodings without letters for it."""

_LABEL = 10  # characters


def curve(values: Sequence[float], width: int, height: int, blocks: str = BLOCKS) -> list[str]:
    """`height` lines of at most `width` characters: columns up to the values, with the range at the left.

    More values than columns are averaged; what is not finite leaves a gap.
    """
    columns = resampled(values, max(width - _LABEL - 1, 1))
    finite = [value for value in columns if math.isfinite(value)]
    if not finite:
        return []
    low, high = min(finite), max(finite)
    labels = [f"{high:.4g}"] + [""] * (height - 2) + [f"{low:.4g}"]
    levels = [_level(value, low, high, height * (len(blocks) - 1)) for value in columns]
    return [
        f"{labels[row][:_LABEL]:>{_LABEL}} "
        + "".join(_part(level, height - 1 - row, blocks) for level in levels).rstrip()
        for row in range(height)
    ]


def bars(values: Sequence[float], blocks: str = BLOCKS) -> str:
    """One character a number, from 0 to the largest."""
    most = max(values, default=0)
    if most <= 0:
        return blocks[0] * len(values)
    return "".join(blocks[math.ceil(max(value, 0) / most * (len(blocks) - 1))] for value in values)


def resampled(values: Sequence[float], count: int) -> list[float]:
    """At most `count` values: means of neighbours, of those that are finite."""
    if len(values) <= count:
        return list(values)
    edges = [len(values) * i // count for i in range(count + 1)]
    return [_mean(values[a:b]) for a, b in pairwise(edges)]


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def _level(value: float, low: float, high: float, most: int) -> int:
    """How many eighths of a line a value is high: at least one, to be seen; none if it is no number."""
    if not math.isfinite(value):
        return 0
    share = (value / 2 - low / 2) / (high / 2 - low / 2) if high > low else 0.0  # halves: no overflow
    return 1 + round(share * (most - 1))


def _part(level: int, line: int, blocks: str) -> str:
    """What of a column is in one line, counted from the bottom."""
    full = len(blocks) - 1
    return blocks[min(max(level - line * full, 0), full)]
