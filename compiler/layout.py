"""How one value is spread over the ranks of the mesh: what `place` decides and redistribution joins.

Batch:       every rank has the rows of its own tokens, or what it computed from them alone
Whole:       the same on every rank
Partial(a):  every rank has a summand; the sum is over axis `a`
AtExperts(a): rows, or experts, on the rank of axis `a` that owns the expert; sorted by expert
Shuffled(a): as Batch, but of tokens that were spread evenly over the ranks of axis `a`
Gathered(a): the rows of all tokens of the ranks of axis `a`, in their order, or what was computed from them;
             or a summand of that, to be summed over `a`
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


@dataclass(frozen=True)
class Shuffled:
    """Local to the tokens that this rank of `axis` has after a shuffle."""

    axis: str

    def __str__(self) -> str:
        return f"shuffled({self.axis})"


@dataclass(frozen=True)
class Gathered:
    """Of the tokens of all ranks of `axis`; `shuffled`: in their order after a shuffle."""

    axis: str
    shuffled: bool = False
    summand: bool = False

    def __str__(self) -> str:
        return f"{'summand of ' * self.summand}gathered({self.axis}{', shuffled' * self.shuffled})"


Layout = Batch | Whole | Partial | AtExperts | Shuffled | Gathered
