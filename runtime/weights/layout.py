"""How parameters lie in the tensor of a file that is made of them.

Every form of a weight map moves rows as a whole or swaps dims, so that a parameter lies in the tensor at
fixed steps: `Place` has, for every dim of the tensor, where it starts and by how much it goes on. What is
read and written are *boxes*, a range of indices for every dim.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from moec.runtime.abi.weight_map import Form

Shape = tuple[int, ...]
Box = tuple[tuple[int, int], ...]
"""[low, high) of every dim."""


class LayoutError(ValueError):
    """Shapes that a form cannot put together; the message says which."""


@dataclass(frozen=True)
class Side:
    """A dim of the tensor as a parameter sees it: index i of its dim `dim` is at start + step * i.

    Without `dim`, all of the parameter is at `start`.
    """

    start: int
    step: int = 1
    dim: int | None = None


@dataclass(frozen=True)
class Strided:
    """A box in flat memory: the element at index (i, j, ...) is at offset + i * strides[0] + j * ..."""

    offset: int
    sizes: Shape
    strides: Shape


@dataclass(frozen=True)
class Place:
    """Where a parameter of `shape` is in a tensor of shape `whole`, which has as many `sides`."""

    shape: Shape
    whole: Shape
    sides: tuple[Side, ...]

    def strided(self, box: Box) -> Strided:
        """A box of the parameter in the flat memory of the tensor."""
        offset, strides, step = 0, [0] * len(self.shape), 1
        for side, size in zip(reversed(self.sides), reversed(self.whole), strict=True):
            offset += side.start * step
            if side.dim is not None:
                strides[side.dim] = side.step * step
            step *= size
        offset += sum(low * stride for (low, _), stride in zip(box, strides, strict=True))
        return Strided(offset, tuple(high - low for low, high in box), tuple(strides))

    def within(self, box: Box) -> Box | None:
        """The box of the parameter that is in a box of the tensor, if there is any."""
        found: list[tuple[int, int]] = [(0, 0)] * len(self.shape)
        for side, (low, high) in zip(self.sides, box, strict=True):
            if side.dim is None:
                if not low <= side.start < high:
                    return None
                continue
            first = max(0, -((side.start - low) // side.step))
            last = min(self.shape[side.dim], -((side.start - high) // side.step))
            if first >= last:
                return None
            found[side.dim] = (first, last)
        return tuple(found)

    def indices(self, part: Box, box: Box) -> tuple[int | slice, ...]:
        """What indexes a tensor with the content of `box` to have the elements of `part`, a box of the
        parameter, its dims in the order of `dims`."""
        found: list[int | slice] = []
        for side, (low, _) in zip(self.sides, box, strict=True):
            if side.dim is None:
                found.append(side.start - low)
            else:
                first, last = part[side.dim]
                begin = side.start + side.step * first - low
                found.append(slice(begin, begin + side.step * (last - first - 1) + 1, side.step))
        return tuple(found)

    @property
    def dims(self) -> tuple[int, ...]:
        """The dims of the parameter in their order in the tensor."""
        return tuple(side.dim for side in self.sides if side.dim is not None)


def as_it_is(shape: Shape) -> Place:
    """The place of a parameter that is a tensor by itself."""
    return Place(shape, shape, tuple(Side(0, 1, dim) for dim in range(len(shape))))


def places(forms: Sequence[Form], shapes: Sequence[Shape]) -> list[Place]:
    """The places of parameters of these shapes in the tensor that the forms, outermost first, make of them.

    Raises:
        LayoutError: they do not fit together.
    """
    whole, sides = _made(forms, shapes)
    return [Place(shape, whole, own) for shape, own in zip(shapes, sides, strict=True)]


Sides = tuple[Side, ...]


def _made(forms: Sequence[Form], shapes: Sequence[Shape]) -> tuple[Shape, list[Sides]]:
    """The shape of the tensor, and the sides of every parameter."""
    if not forms:
        if len(shapes) != 1:
            raise LayoutError(f"{len(shapes)} parameters in the place of one")
        return shapes[0], [as_it_is(shapes[0]).sides]
    form = forms[0]
    share, rest = divmod(len(shapes), form.count)
    if rest or not share:
        raise LayoutError(f"{len(shapes)} parameters for {form.kind} of {form.count}")
    elements = [_made(forms[1:], shapes[i : i + share]) for i in range(0, len(shapes), share)]
    match form.kind:
        case "transpose":
            return _transposed(*elements[0])
        case "stack":
            return _stacked(elements)
        case "concat":
            return _concatenated(elements)
        case "interleave":
            return _interleaved(elements)


def _transposed(shape: Shape, sides: list[Sides]) -> tuple[Shape, list[Sides]]:
    if len(shape) < 2:
        raise LayoutError(f"shape {shape} has no two dims to swap")
    swapped = (*shape[:-2], shape[-1], shape[-2])
    return swapped, [(*own[:-2], own[-1], own[-2]) for own in sides]


def _stacked(elements: list[tuple[Shape, list[Sides]]]) -> tuple[Shape, list[Sides]]:
    shape = _common([shape for shape, _ in elements])
    sides = [(Side(number), *own) for number, (_, inner) in enumerate(elements) for own in inner]
    return (len(elements), *shape), sides


def _interleaved(elements: list[tuple[Shape, list[Sides]]]) -> tuple[Shape, list[Sides]]:
    rows, *rest = _common([shape for shape, _ in elements], dims=1)
    count = len(elements)
    sides = [
        (Side(number + count * own[0].start, count * own[0].step, own[0].dim), *own[1:])
        for number, (_, inner) in enumerate(elements)
        for own in inner
    ]
    return (count * rows, *rest), sides


def _concatenated(elements: list[tuple[Shape, list[Sides]]]) -> tuple[Shape, list[Sides]]:
    rest = _common([(0, *shape[1:]) if shape else shape for shape, _ in elements], dims=1)[1:]
    sides, begin = [], 0
    for shape, inner in elements:
        for own in inner:
            sides.append((Side(begin + own[0].start, own[0].step, own[0].dim), *own[1:]))
        begin += shape[0]
    return (begin, *rest), sides


def _common(shapes: list[Shape], dims: int = 0) -> Shape:
    """The one shape that all have, of at least so many dims."""
    other = next((shape for shape in shapes if shape != shapes[0]), None)
    if other is not None:
        raise LayoutError(f"shapes {shapes[0]} and {other} do not fit together")
    if len(shapes[0]) < dims:
        raise LayoutError("a number has no rows")
    return shapes[0]


# --- boxes ---


def full(shape: Shape) -> Box:
    """The box of everything."""
    return tuple((0, size) for size in shape)


def flat_range(shape: Shape, start: int, stop: int) -> Iterator[Box]:
    """The boxes, in order, of the elements with flat index start to stop; at most two a dim."""
    if start >= stop:
        return
    if not shape:
        yield ()
        return
    row = prod(shape[1:])
    first, last = -(-start // row), stop // row  # whole rows
    if first > last:  # within one row
        yield from _in_row(shape, last, start, stop)
        return
    yield from _in_row(shape, first - 1, start, first * row)
    if first < last:
        yield ((first, last), *full(shape[1:]))
    yield from _in_row(shape, last, last * row, stop)


def _in_row(shape: Shape, row: int, start: int, stop: int) -> Iterator[Box]:
    begin = row * prod(shape[1:])
    for box in flat_range(shape[1:], start - begin, stop - begin):
        yield ((row, row + 1), *box)


def blocks_of(shape: Shape, limit: int) -> Iterator[Box]:
    """Boxes of at most `limit` elements, one after another in flat memory, which make up the shape."""
    row = prod(shape[1:])
    if prod(shape) <= limit:
        yield full(shape)
    elif row <= limit:
        rows = limit // row
        for low in range(0, shape[0], rows):
            yield ((low, min(low + rows, shape[0])), *full(shape[1:]))
    else:
        for index in range(shape[0]):
            for box in blocks_of(shape[1:], limit):
                yield ((index, index + 1), *box)
