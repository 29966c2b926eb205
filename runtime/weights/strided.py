"""Reading what lies in steps: few large reads that cover it, or one for every run, whichever costs less."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from torch import Tensor

from moec.runtime.weights.layout import Strided

COVER = 1 << 25
"""Elements that one read has at most."""

_READ_COST = 1 << 14
"""What a read costs beside its elements, counted in elements: about ten microseconds at a few GB/s."""

Read = Callable[[int, int], Tensor]
"""(start, count) -> the elements (count,) from a flat index on."""


def read_strided(read: Read, at: Strided, into: Tensor, cover: int | None = None) -> None:
    """Fill `into`, of shape `at.sizes`, with what is there.

    Beside `into`, at most `cover` elements are held, by default `COVER`.
    """
    if 0 in at.sizes:
        return
    span = 1 + sum((size - 1) * stride for size, stride in zip(at.sizes, at.strides, strict=True))
    run = _run(at)
    runs = prod(at.sizes) // run
    if span <= (cover or COVER) and span <= runs * (_READ_COST + run):
        into.copy_(read(at.offset, span).as_strided(at.sizes, at.strides))
        return
    dim = max(range(len(at.sizes)), key=lambda i: at.strides[i] if at.sizes[i] > 1 else -1)
    half = at.sizes[dim] // 2
    for begin, size in ((0, half), (half, at.sizes[dim] - half)):
        sizes = (*at.sizes[:dim], size, *at.sizes[dim + 1 :])
        part = Strided(at.offset + begin * at.strides[dim], sizes, at.strides)
        read_strided(read, part, into.narrow(dim, begin, size), cover)


def _run(at: Strided) -> int:
    """How many elements follow one another without a gap."""
    run = 1
    for stride, size in sorted(zip(at.strides, at.sizes, strict=True)):
        if size > 1:
            if stride != run:
                break
            run *= size
    return run
