"""What is said of a stall, or of a rank that is gone: every rank with its place."""

from __future__ import annotations

from collections.abc import Mapping

from .place import Place

SILENT_S = 10.0
"""A rank that has not posted for so long does not run: it posts every few seconds, whatever it does."""

_SHOWN = 64


def stalled(places: Mapping[int, Place], world: int, waited_s: float, now_s: float) -> str:
    """Who waits where, and who is silent; the suspects are named first."""
    quiet = [rank for rank, place in places.items() if now_s - place.time_s > SILENT_S]
    missing = [rank for rank in range(world) if rank not in places]
    head = f"no progress for {waited_s:.0f} s{_suspects(places, quiet, missing)}"
    return "\n".join([head, *_lines(places, world, now_s)])


def gone(places: Mapping[int, Place], lost: list[int], world: int, now_s: float) -> str:
    """Which ranks are gone, and where they were last."""
    many = "s" if len(lost) > 1 else ""
    verb = "are" if many else "is"
    head = f"rank{many} {_list(lost)} {verb} gone: killed, or left without a word"
    return "\n".join([head, *_lines(places, world, now_s)])


def _suspects(places: Mapping[int, Place], quiet: list[int], missing: list[int]) -> str:
    if quiet or missing:
        silent = sorted({*quiet, *missing})
        many = "s give" if len(silent) > 1 else " gives"
        return f"; rank{many} no sign of life: {_list(silent)}" if silent else ""
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


def _lines(places: Mapping[int, Place], world: int, now_s: float) -> list[str]:
    lines = [f"  rank {rank}: {_line(places.get(rank), now_s)}" for rank in range(min(world, _SHOWN))]
    return lines if world <= _SHOWN else [*lines, f"  and {world - _SHOWN} more, in the folder `ranks`"]


def _line(place: Place | None, now_s: float) -> str:
    if place is None:
        return "has not said where it is"
    silent_s = now_s - place.time_s
    if place.left:
        return "has ended"
    heard = f", last heard {silent_s:.0f} s ago" if silent_s > SILENT_S else ""
    return f"{place}{heard}"


def _list(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"
