"""What is kept between the forward and the backward of a micro-batch, and where."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .origin import NOWHERE, Origin

RecomputeWord = Literal["none", "attention", "experts", "layer"]
Gathered = Literal["free", "keep"]


@dataclass(frozen=True)
class RecomputeNames:
    """The values of these components, by their paths, and of what is inside of them."""

    names: tuple[str, ...]
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class RecomputeAuto:
    """As little work as keeps what a rank saves, at balanced routing, within a number of bytes."""

    budget_bytes: int
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


Recompute = RecomputeWord | RecomputeNames | RecomputeAuto


@dataclass(frozen=True)
class Offload:
    """Saved values of at least `least_bytes` wait in host memory; they come back `horizon` regions ahead."""

    horizon: int = 2
    least_bytes: int = 1 << 20
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class MemorySpec:
    """`recompute`: what backward computes again instead of keeping it from forward.

    `gathered`: what becomes of whole parameters between forward and backward. `loss_chunk`: how many tokens
    have logits at a time; None: all.
    """

    recompute: Recompute = "none"
    offload: Offload | None = None
    gathered: Gathered = "free"
    loss_chunk: int | None = None
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)
