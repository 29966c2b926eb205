"""Differences as text for a reader, and as plain data."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator

from moec.dsl.families import Family, ranges, shape_text

from .compare import Differences
from .values import ValueChange
from .weights import MapChange

_COLUMNS = 100
_PATH = 36  # columns of the paths, where no path is longer
_KEYS = 8  # of config.json, named


def text(found: Differences) -> str:
    """All differences; "" where there are none."""
    parts = [_values(found.values), _parameters(found), _weight_map(found.weight_map)]
    return "\n\n".join("\n".join(lines) for lines in map(list, parts) if lines) + "\n" if found else ""


def _values(changes: tuple[ValueChange, ...]) -> Iterator[str]:
    width = min(_PATH, max((len(_where(change)) for change in changes), default=0))
    for change in changes:
        where, old, new = _where(change), change.before, change.after
        line = f"{where:<{width}}  {_or_dash(old)} -> {_or_dash(new)}"
        if len(line) <= _COLUMNS:
            yield line
            continue
        yield where
        yield from ([] if old is None else _wrapped("-", old))
        yield from ([] if new is None else _wrapped("+", new))


def _where(change: ValueChange) -> str:
    return change.path if change.layers is None else f"{change.path} (layers {ranges(change.layers)})"


def _or_dash(value: str | None) -> str:
    return "-" if value is None else value


def _wrapped(sign: str, value: str) -> list[str]:
    return textwrap.wrap(
        value,
        _COLUMNS,
        initial_indent=f"  {sign} ",
        subsequent_indent="      ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _parameters(found: Differences) -> Iterator[str]:
    (total, active), (new_total, new_active) = found.counts
    if found.removed or found.added or found.counts[0] != found.counts[1]:
        yield f"parameters: {total:,} -> {new_total:,}; active per token: {active:,} -> {new_active:,}"
    pairs = _reshaped(found)
    lines = [("~", one.path, _reshaping(one, other)) for one, other in pairs]
    paired = {id(one) for pair in pairs for one in pair}
    for sign, families in (("-", found.removed), ("+", found.added)):
        lines += [(sign, one.path, _family(one)) for one in families if id(one) not in paired]
    width = max((len(path) for _, path, _ in lines), default=0)
    yield from (f"  {sign} {path:<{width}}  {what}" for sign, path, what in lines)


def _reshaped(found: Differences) -> list[tuple[Family, Family]]:
    """Parameters that both have by one name, in another shape or number."""
    count = Counter(one.path for one in (*found.removed, *found.added))
    added = {one.path: one for one in found.added}
    return [(one, added[one.path]) for one in found.removed if one.path in added and count[one.path] == 2]


def _reshaping(one: Family, other: Family) -> str:
    shapes = dict.fromkeys((shape_text(one.shape), shape_text(other.shape)))
    counts = dict.fromkeys((f"{one.tensors:,}", f"{other.tensors:,}"))
    return f"{' -> '.join(shapes)}: {_plural(' -> '.join(counts), 'tensor')}"


def _family(family: Family) -> str:
    many = f"{_plural(f'{family.tensors:,}', 'tensor')}, {family.elements:,} elements"
    where = f", layers {ranges(family.layers)}" if family.layers else ""
    return f"{shape_text(family.shape)}: {many}{where}"


def _plural(count: str, what: str) -> str:
    return f"{count} {what if count == '1' else f'{what}s'}"


def _weight_map(change: MapChange | None) -> Iterator[str]:
    if change is None:
        return
    common = change.before - change.only_before
    yield f"weight map: {change.before:,} -> {change.after:,} tensors, {common:,} names in both"
    if change.made_differently:
        yield f"  {change.made_differently:,} of these made differently"
    if change.config:
        named = ", ".join(change.config[:_KEYS])
        more = f" and {len(change.config) - _KEYS} more" if len(change.config) > _KEYS else ""
        yield f"  {_plural(str(len(change.config)), 'key')} of config.json: {named}{more}"
    if change.passed_over:
        yield "  other tensors or keys are passed over"


# --- plain data ---


def data(found: Differences) -> dict[str, object]:
    """The same as plain data, for JSON."""
    (total, active), (new_total, new_active) = found.counts
    return {
        "equal": not found,
        "values": [
            {
                "path": change.path,
                "before": change.before,
                "after": change.after,
                "layers": None if change.layers is None else list(change.layers),
            }
            for change in found.values
        ],
        "parameters": {
            "total": [total, new_total],
            "active": [active, new_active],
            "removed": [_family_data(one) for one in found.removed],
            "added": [_family_data(one) for one in found.added],
        },
        "weight_map": None if found.weight_map is None else _map_data(found.weight_map),
    }


def _family_data(family: Family) -> dict[str, object]:
    return {
        "path": family.path,
        "shape": list(family.shape),
        "tensors": family.tensors,
        "elements": family.elements,
        "layers": list(family.layers),
    }


def _map_data(change: MapChange) -> dict[str, object]:
    return {
        "tensors": [change.before, change.after],
        "only_before": change.only_before,
        "only_after": change.only_after,
        "made_differently": change.made_differently,
        "config": list(change.config),
        "passed_over": change.passed_over,
    }
