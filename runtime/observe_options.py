"""What a user may ask for, of what is looked at in a run: profiled steps, trackers, the peak of a device."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from moec.runtime.errors import UserError
from moec.runtime.trackers.load import check_tracker

MOST_PROFILED = 1000
"""Steps: a trace of more would be of no use, and fill the disk."""


@dataclass(frozen=True)
class Observing:
    """What the user asked for. `peak_flops_per_s` is of one rank; where it is absent, a CPU is measured."""

    profile: range | None = None
    trackers: tuple[str, ...] = ()
    peak_flops_per_s: float | None = None


def parse_observing(profile: str | None, trackers: tuple[str, ...], peak_flops: float | None) -> Observing:
    """The options of a command line. Raises UserError, or EnvironmentMismatch for a missing library."""
    for text in trackers:
        check_tracker(text)
    if peak_flops is not None and not (math.isfinite(peak_flops) and peak_flops > 0):
        raise UserError(f"--peak-flops {peak_flops:g}: a number above 0, such as 312e12")
    return Observing(parse_steps(profile) if profile is not None else None, trackers, peak_flops)


def parse_steps(text: str) -> range:
    """`10..12` or `10`: steps as metrics.jsonl numbers them, from 0, the last one included."""
    found = re.fullmatch(r"(\d{1,12})(?:\.\.(\d{1,12}))?", text)
    if not found:
        raise UserError(f"--profile {text}: steps are written FIRST..LAST, such as 10..12")
    first, last = int(found[1]), int(found[2] or found[1])
    if last < first:
        raise UserError(f"--profile {text}: the last step comes before the first")
    if last - first >= MOST_PROFILED:
        raise UserError(f"--profile {text}: at most {MOST_PROFILED} steps")
    return range(first, last + 1)
