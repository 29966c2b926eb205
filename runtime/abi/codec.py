"""Frozen dataclasses to JSON and back, strictly: data only, and every surprise is an error with its place.

Nothing is evaluated or guessed. Reading refuses unknown and missing keys, duplicate keys, numbers that are
not finite, wrong types, deep nesting and files over a limit. A file may come from anyone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")

_MAX_DEPTH = 64
_MAX_VALUES = 1 << 24  # two letters of a file can be a value, which takes some thirty times as much in memory
_MAX_LISTED = 5  # names in a message


class FormatError(Exception):
    """Data that is not what the format says; the message names file and place."""

    exit_code = 76


def to_data(value: Any) -> Any:
    """A frozen dataclass, tuple, dict or scalar as JSON data."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_data(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [to_data(v) for v in value]
    if isinstance(value, dict):
        return {key: to_data(v) for key, v in value.items()}
    return value


def from_data(kind: type[T], data: Any, where: str) -> T:
    """JSON data as a value of `kind`. Raises FormatError, whose message starts with `where`."""
    return typing.cast(T, _read(kind, data, where))


def dump(data: Any) -> bytes:
    """JSON text, the same for the same data on every machine."""
    return json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def read_json(path: Path, limit_bytes: int) -> Any:
    """The JSON data of a file. Raises FormatError, or OSError if it cannot be read."""
    with path.open("rb") as file:
        raw = file.read(limit_bytes + 1)
    if len(raw) > limit_bytes:
        raise FormatError(f"{path.name}: larger than {limit_bytes} bytes")
    return parse_json(raw, path.name)


def parse_json(raw: bytes, where: str) -> Any:
    """JSON text as data. Raises FormatError."""
    if sum(raw.count(mark) for mark in (b",", b"[", b"{")) > _MAX_VALUES:
        raise FormatError(f"{where}: more than {_MAX_VALUES} values")
    try:
        data = json.loads(
            raw,
            parse_float=_finite,
            parse_constant=_refuse_constant,
            object_pairs_hook=_refuse_duplicates,
        )
        _check_depth(data, where)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not valid JSON: {error}") from error
    return data


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return found


def is_legible(text: str) -> bool:
    """Whether printing it shows characters and does nothing else to a terminal."""
    return text.isprintable() or all(letter.isprintable() or letter == "\t" for letter in text)


def check_legible(data: Any, where: str) -> None:
    """All names and texts in JSON data are legible. Raises FormatError."""
    match data:
        case str() if not is_legible(data):
            raise FormatError(f"{where}: {data[:60]!a} is no printable text")
        case dict():
            for key, value in data.items():
                check_legible(key, where)
                check_legible(value, f"{where}.{key}")
        case list():
            for i, value in enumerate(data):
                check_legible(value, f"{where}[{i}]")


def _check_depth(data: Any, where: str) -> None:
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise FormatError(f"{where}: nested deeper than {_MAX_DEPTH}")
        level = [
            child
            for value in level
            if isinstance(value, dict | list)
            for child in (value.values() if isinstance(value, dict) else value)
        ]


def _read(kind: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return data
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, data, where)
    if origin is Literal:
        return data if data in args else _fail(where, f"one of {args}", data)
    if origin in (Union, types.UnionType):
        return _read_union(args, data, where)
    if origin is tuple:
        return _read_tuple(args, data, where)
    if origin is dict:
        _expect(isinstance(data, dict), where, "an object", data)
        return {key: _read(args[1], value, f"{where}.{key}") for key, value in data.items()}
    return _read_scalar(kind, data, where)


def _read_scalar(kind: Any, data: Any, where: str) -> Any:
    if kind is type(None):
        _expect(data is None, where, "null", data)
        return None
    if kind is float:
        _expect(type(data) in (int, float) and abs(data) <= sys.float_info.max, where, "a number", data)
        return float(data)
    _expect(type(data) is kind, where, kind.__name__, data)
    return data


def _read_dataclass(kind: Any, data: Any, where: str) -> Any:
    _expect(isinstance(data, dict), where, "an object", data)
    fields = {f.name for f in dataclasses.fields(kind)}
    if fields != data.keys():
        unknown, missing = _first(data.keys() - fields), _first(fields - data.keys())
        raise FormatError(f"{where}: unknown keys {unknown}, missing keys {missing}")
    hints = typing.get_type_hints(kind)
    return kind(**{name: _read(hints[name], data[name], f"{where}.{name}") for name in fields})


def _first(names: set[str]) -> str:
    """Some names, sorted, and how many more there are: a file may bring in any number, of any length."""
    shown = [name[:60] for name in sorted(names)[:_MAX_LISTED]]
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return f"{shown}{more}"


def _read_union(kinds: tuple[Any, ...], data: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return _read(kind, data, where)
        except FormatError:
            continue
    return _fail(where, " or ".join(getattr(k, "__name__", str(k)) for k in kinds), data)


def _read_tuple(args: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    _expect(isinstance(data, list), where, "a list", data)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_read(args[0], value, f"{where}[{i}]") for i, value in enumerate(data))
    _expect(len(data) == len(args), where, f"{len(args)} elements", data)
    return tuple(_read(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(args, data, strict=True)))


def _expect(holds: bool, where: str, expected: str, data: Any) -> None:
    if not holds:
        _fail(where, expected, data)


def _fail(where: str, expected: str, data: Any) -> Any:
    text = repr(data)
    raise FormatError(f"{where}: expected {expected}, found {text if len(text) <= 60 else text[:57] + '...'}")
