"""What a config.json has for an entry, and what that sets in the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl.diagnostics import Mistake

from .keys import asked_by, same, shown

ABSENT = object()
"""Stands for the value of a key that the file lacks."""


@dataclass(frozen=True)
class Setting:
    """What a key sets a path to; `given`: the file has the value, it is no default."""

    path: str
    key: str
    value: object
    given: bool


def found(entry: m.ConfigEntry, values: Mapping[str, object]) -> tuple[str, object]:
    """The spelling in use and its value; null counts only where no spelling has another value.

    Raises Mistake where two spellings say different things.
    """
    there = [(key, values[key]) for key in entry.keys if key in values]
    given = [(key, value) for key, value in there if value is not None]
    for key, value in given[1:]:
        first, meant = given[0]
        if not same(value, meant):
            label = f"`{first}` is {shown(meant)}, and `{key}`, the same fact, is {shown(value)}"
            raise Mistake(c.CONFIG_MISMATCH.at(None, label, asked_by(entry)))
    return next(iter([*given, *there]), (entry.keys[0], ABSENT))


def missing(entry: m.ConfigEntry, key: str) -> Mistake:
    """The file lacks a key that the model takes a value from."""
    return Mistake(c.CONFIG_MISSING.at(None, f"`{key}` is missing", asked_by(entry)))
