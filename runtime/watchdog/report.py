"""What is said of a stall, or of a rank that is gone: every rank with its place."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from .place import Place

SILENT_POSTS = 3.5
"""A rank that was due to post more often than this does not run: it posts whatever its main thread does."""

_SHOWN = 64


def stalled(places: Mapping[int, Place], world: int, waited_s: float, now_s: float, post_s: float) -> str:
    """Who waits where, and who is silent; the suspects are named first. Ranks post every `post_s`."""
    silent_s = SILENT_POSTS * post_s
    quiet = [rank for rank, place in places.items() if not place.left and now_s - place.time_s > silent_s]
    missing = [rank for rank in range(world) if rank not in places]
    head = f"no progress for {waited_s:.0f} s{_suspects(places, quiet, missing)}"
    return "\n".join([head, *_lines(places, world, now_s, silent_s)])


def gone(places: Mapping[int, Place], lost: list[int], world: int, now_s: float) -> str:
    """Which ranks are gone, and where they were last."""
    many = "s" if len(lost) > 1 else ""
    verb = "are" if many else "is"
    head = f"rank{many} {_list(lost)} {verb} gone: killed, or left without a word"
    return "\n".join([head, *_lines(places, world, now_s, 0.0, lost)])


def _suspects(places: Mapping[int, Place], quiet: list[int], missing: list[int]) -> str:
    if quiet or missing:
        silent = sorted({*quiet, *missing})
        return f"; no sign of life from rank{'s' if len(silent) > 1 else ''} {_list(silent)}"
    apart = _apart(places)
    return f"; not where the others are: rank {_list(apart)}" if apart else ""


def _apart(places: Mapping[int, Place]) -> list[int]:
    """Those ranks that are elsewhere than most."""
    where: dict[tuple[object, ...], list[int]] = {}
    for rank, place in places.items():
        where.setdefault((place.step, place.section, place.stack), []).append(rank)
    groups = sorted(where.values(), key=len)
    if len(groups) < 2 or len(groups[-1]) == len(groups[-2]):
        return []
    return sorted(rank for group in groups[:-1] for rank in group)


def _lines(
    places: Mapping[int, Place], world: int, now_s: float, silent_s: float, lost: Collection[int] = ()
) -> list[str]:
    lines = []
    for rank in range(min(world, _SHOWN)):
        silent = rank in lost if lost else True
        lines.append(f"  rank {rank}: {_line(places.get(rank), now_s, silent_s if silent else math.inf)}")
    return lines if world <= _SHOWN else [*lines, f"  and {world - _SHOWN} more, in the folder `ranks`"]


def _line(place: Place | None, now_s: float, silent_s: float) -> str:
    if place is None:
        return "has not said where it is"
    if place.left:
        return "has ended"
    since_s = now_s - place.time_s
    heard = f", {since_s:.1f} s ago" if since_s > silent_s else ""
    return f"{place}{heard}"


def _list(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"
