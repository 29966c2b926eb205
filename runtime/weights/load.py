"""From weights on disk into one rank's shards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from moec.runtime.abi.buffers import Piece
from moec.runtime.errors import InternalError
from moec.runtime.weights.stored import StoredTensors
from moec.runtime.weights.writer import Shape, WeightsWriter

BLOCK = 1 << 25
"""Elements that are read at a time."""


def load_shards(
    reader: StoredTensors,
    pieces: Iterable[Piece],
    into: Tensor,
    *,
    cast: bool = False,
    wrote: Callable[[Piece, int, int], None] | None = None,
) -> None:
    """Fill a rank's shard, (shard_numel,), with its pieces; what no piece covers becomes zero.

    At most `BLOCK` elements are held beside the shard. `cast` allows a float dtype that would be rounded.
    `wrote` is told of every block that is in its place: the piece, the block's first element of it, how many.

    Raises:
        IntegrityError: a tensor is missing, of another shape, or not to be read as `into.dtype`.
        InputOutputError: reading failed.
    """
    into.zero_()
    for piece in pieces:
        reader.check_shape(piece.name, piece.shape)
        reader.check_dtype(piece.name, into.dtype, cast=cast)
        target = into[piece.offset : piece.offset + piece.count]
        if target.numel() != piece.count:
            raise InternalError(f"{piece} is not within a shard of {into.numel()} elements")
        for begin, block in _blocks(reader, piece.name, piece.start, piece.count):
            target[begin : begin + block.numel()].copy_(block)
            if wrote is not None:
                wrote(piece, begin, block.numel())


def copy_weights(
    reader: StoredTensors,
    directory: Path,
    regions: Mapping[str, Mapping[str, Shape]],
    dtype: torch.dtype,
    *,
    cast: bool = False,
) -> None:
    """Write what `reader` reads as a weights directory; `regions` is region -> name -> shape.

    Raises:
        IntegrityError: the reader has not exactly these tensors, or one is not to be read as `dtype`.
        UserError: something else is at `directory`.
        InputOutputError: reading or writing failed.
    """
    everything = {name: shape for shapes in regions.values() for name, shape in shapes.items()}
    reader.check_against(everything, dtype, cast=cast)
    with WeightsWriter(directory) as writer:
        for region, shapes in regions.items():
            blocks = (
                (name, block.to(dtype))
                for name, shape in shapes.items()
                for _, block in _blocks(reader, name, 0, torch.Size(shape).numel())
            )
            writer.write_region(region, shapes, dtype, blocks)


def _blocks(reader: StoredTensors, name: str, start: int, count: int) -> Iterator[tuple[int, Tensor]]:
    """(place, values) of `count` elements from `start` on; places count from `start`."""
    for begin in range(0, count, BLOCK):
        yield begin, reader.read(name, start + begin, min(BLOCK, count - begin))
