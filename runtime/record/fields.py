"""The objects in the metrics of a step: numbers by MoE, by axis or by what time went into.

A number in an object that is not finite is null there, and is read as not-a-number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

NUMBERS = ("load_imbalance", "router_entropy", "time_s", "validation_loss")
"""Name -> number."""

COUNTS = ("dropped_choices", "dropped_tokens")
"""Name -> whole number."""

COUNT_TABLES = ("bytes_sent",)
"""Name -> name -> whole number."""

MOST_COUNT = 1 << 63
"""More than anything that is counted, and a number that arithmetic can take."""

OBJECTS = (*NUMBERS, *COUNTS, *COUNT_TABLES)


def written(name: str, value: Mapping[str, Any]) -> dict[str, Any]:
    """An object as JSON has it."""
    if name in NUMBERS:
        return {key: number if math.isfinite(number) else None for key, number in value.items()}
    if name in COUNT_TABLES:
        return {key: dict(row) for key, row in value.items()}
    return dict(value)


def is_object(name: str, value: object) -> bool:
    """Whether data is what the object of that name may be."""
    if name in NUMBERS:
        return _holds(value, lambda item: item is None or type(item) in (int, float))
    if name in COUNT_TABLES:
        return _holds(value, lambda row: _holds(row, is_count))
    return _holds(value, is_count)


def read(name: str, value: dict[str, Any]) -> dict[str, Any]:
    """An object that `is_object`, with numbers for null."""
    if name in NUMBERS:
        return {key: math.nan if number is None else number for key, number in value.items()}
    return value


def _holds(value: object, kind: Callable[[object], bool]) -> bool:
    return isinstance(value, dict) and all(map(kind, value.values()))


def is_count(value: object) -> bool:
    """Whether data is a whole number that something may have been counted to."""
    return type(value) is int and abs(value) < MOST_COUNT
