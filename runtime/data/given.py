"""What `--data` says: sources, each with a weight."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass

from moec.runtime.errors import UserError

MAX_SOURCES = 1000


@dataclass(frozen=True)
class Given:
    """A source as it was given: its weight beside the others, and what names its data."""

    weight: float
    data: str


def parse_data(values: Sequence[str]) -> tuple[Given, ...]:
    """`PATH` or `WEIGHT*PATH`, such as `0.7*web.jsonl`; a source without a weight has 1.

    Raises:
        UserError: none or too many, a weight that is not a positive number, or a source that is given twice.
    """
    if not values:
        raise UserError("there is no --data")
    if len(values) > MAX_SOURCES:
        raise UserError(f"{len(values)} sources of --data; at most {MAX_SOURCES} are mixed")
    found = tuple(map(_parse, values))
    names = [given.data for given in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"--data {twice} is given twice: give it once, with a weight")
    return found


def _parse(value: str) -> Given:
    weight, star, data = value.partition("*")
    if not star or os.path.lexists(value):
        return Given(1.0, value)
    try:
        number = float(weight)
    except ValueError:
        raise UserError(
            f"--data {value}: {weight!r} is no weight; a source is PATH or WEIGHT*PATH, such as 0.7*web.jsonl"
        ) from None
    if not (number > 0 and math.isfinite(number)):
        raise UserError(f"--data {value}: the weight {weight.strip()} is not a positive number")
    if not data:
        raise UserError(f"--data {value}: nothing comes after the weight")
    return Given(number, data)
