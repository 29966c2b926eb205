"""Clocks that differ are found to: the bounds hold whatever the delays, and the middle is near."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from moec.runtime.profile.clocks import Clock, align, bounds
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks

DELAYS = st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8)


@given(st.floats(-1e3, 1e3), DELAYS)
def test_bounds_hold_whatever_the_delays(offset_s: float, delays: list[tuple[float, ...]]) -> None:
    """Two ranks begin when they like; nobody ends before both have begun."""
    first, mine, now_s = [], [], 0.0
    for a, b, c, d in delays:
        begins = (now_s + a, now_s + b)
        ends = (max(begins) + c, max(begins) + d)
        first.append((begins[0], ends[0]))
        mine.append((begins[1] + offset_s, ends[1] + offset_s))
        now_s = max(ends)
    low_s, high_s = bounds(first, mine)
    assert low_s - 1e-9 <= offset_s <= high_s + 1e-9


def test_ranks_whose_clocks_are_hours_apart_agree_on_what_is_now() -> None:
    def rank(transport: Transport) -> tuple[float, Clock]:
        def clock() -> float:
            return time.perf_counter() + 3600.0 * transport.rank

        aligned = align(transport, clock)
        return aligned.common_us(clock()) - (time.perf_counter() * 1e6), aligned

    found = run_ranks(3, rank)
    reference_us = found[0][0]
    for index, (now_us, aligned) in enumerate(found):
        assert abs(aligned.offset_s - 3600.0 * index) <= aligned.error_s + 1e-9
        assert abs(now_us - reference_us) <= aligned.error_s * 1e6 + 1e4  # between two looks at the clock
