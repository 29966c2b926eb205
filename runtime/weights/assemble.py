"""The tensors of a published checkpoint, put together out of stored parameters, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import torch
from torch import Tensor

from moec.runtime.errors import InternalError
from moec.runtime.weights.layout import Box, Place, as_it_is, blocks_of
from moec.runtime.weights.stored import StoredTensors
from moec.runtime.weights.strided import copy

BLOCK = 1 << 25
"""Elements that are put together at a time."""


def assembled(
    weights: StoredTensors, parts: Sequence[tuple[str, Place]], dtype: torch.dtype
) -> Iterator[Tensor]:
    """The content of a tensor, in blocks one after another, of parameters at places that fill it.

    In memory are a block, what of it one parameter has, and what is read for that: each `BLOCK` elements.

    Raises:
        IntegrityError: the weights have changed.
        InputOutputError: reading failed.
    """
    name, place = parts[0]
    if place == as_it_is(place.shape):
        yield from _copied(weights, name, prod(place.shape), dtype)
        return
    for box in blocks_of(place.whole, BLOCK):
        yield _block(weights, parts, box, dtype)


def _copied(weights: StoredTensors, name: str, numel: int, dtype: torch.dtype) -> Iterator[Tensor]:
    for begin in range(0, numel, BLOCK):
        yield weights.read(name, begin, min(BLOCK, numel - begin)).to(dtype)


def _block(
    weights: StoredTensors, parts: Sequence[tuple[str, Place]], box: Box, dtype: torch.dtype
) -> Tensor:
    block = torch.empty([high - low for low, high in box], dtype=dtype)
    missing = block.numel()
    for name, place in parts:
        part = place.within(box)
        if part is None:
            continue
        values = weights.read_box(name, part).permute(place.dims)
        copy(values, block[place.indices(part, box)])
        missing -= values.numel()
    if missing:
        raise InternalError(f"{missing} elements of a tensor of {parts[0][0]} have no parameter")
    return block
