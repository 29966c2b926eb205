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

_TILE = 128  # of either dim: what is read and what is written stay in the cache

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
        copy(read(at.offset, span).as_strided(at.sizes, at.strides), into)
        return
    dim = max(range(len(at.sizes)), key=lambda i: at.strides[i] if at.sizes[i] > 1 else -1)
    half = at.sizes[dim] // 2
    for begin, size in ((0, half), (half, at.sizes[dim] - half)):
        sizes = (*at.sizes[:dim], size, *at.sizes[dim + 1 :])
        part = Strided(at.offset + begin * at.strides[dim], sizes, at.strides)
        read_strided(read, part, into.narrow(dim, begin, size), cover)


def copy(source: Tensor, into: Tensor) -> None:
    """`into` becomes `source`, tile by tile where one of the two is transposed: ten times as fast."""
    here, there = _fastest(into), _fastest(source)
    if here == there:
        into.copy_(source)
        return
    for i in range(0, into.shape[here], _TILE):
        for j in range(0, into.shape[there], _TILE):
            _tile(into, here, i, there, j).copy_(_tile(source, here, i, there, j))


def _fastest(tensor: Tensor) -> int:
    """The dim whose neighbours are closest in memory."""
    return min(range(tensor.dim()), key=lambda d: (tensor.shape[d] < 2, tensor.stride(d)), default=0)


def _tile(tensor: Tensor, one: int, i: int, other: int, j: int) -> Tensor:
    """So many elements of two dims from i and j on."""
    part = tensor.narrow(one, i, min(_TILE, tensor.shape[one] - i))
    return part.narrow(other, j, min(_TILE, tensor.shape[other] - j))


def _run(at: Strided) -> int:
    """How many elements follow one another without a gap."""
    run = 1
    for stride, size in sorted(zip(at.strides, at.sizes, strict=True)):
        if size > 1:
            if stride != run:
                break
            run *= size
    return run
