"""Sizes that divide others."""

from __future__ import annotations


def divisors_near(number: int, wanted: int) -> list[int]:
    """The largest divisor up to a number, and the smallest beyond it."""
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [d for d in divisors if d <= wanted][-1:]
    above = [d for d in divisors if d > wanted][:1]
    return below + above
