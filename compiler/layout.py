"""How one value is spread over the ranks of the mesh: what `place` decides and redistribution joins.

Batch:       every rank has the rows of its own tokens, or what it computed from them alone
Whole:       the same on every rank
Partial(a):  every rank has a summand; the sum is over axis `a`
AtExperts(a): rows, or experts, on the rank of axis `a` that owns the expert; sorted by expert
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Batch:
    """Local to this rank's tokens."""

    def __str__(self) -> str:
        return "batch"


@dataclass(frozen=True)
class Whole:
    """Equal on all ranks."""

    def __str__(self) -> str:
        return "whole"


@dataclass(frozen=True)
class Partial:
    """A summand over `axis`."""

    axis: str

    def __str__(self) -> str:
        return f"partial({self.axis})"


@dataclass(frozen=True)
class AtExperts:
    """With the owner of the expert on `axis`."""

    axis: str

    def __str__(self) -> str:
        return f"at experts({self.axis})"


Layout = Batch | Whole | Partial | AtExperts
