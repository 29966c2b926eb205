"""That a checkpoint holds every element of the state once: arithmetic of intervals, without a tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod

from moec.runtime.errors import IntegrityError
from moec.runtime.weights.tensor_file import shown

from .slices import SAVED_PARTS, Slice

Parameters = Mapping[str, tuple[tuple[int, ...], bool]]
"""Parameter name -> shape, and whether it is trained, so that it has moments."""


class CoverageError(IntegrityError):
    """Slices that do not hold every element of every parameter, and of its moments, exactly once."""


def check_coverage(parameters: Parameters, slices: Iterable[Slice], where: str) -> None:
    """Every parameter is held once, whole, and both moments of those that are trained.

    Raises:
        CoverageError: it names the first parameter and range that are missing, held twice or too many.
    """
    found: dict[tuple[str, str], list[Slice]] = {}
    for one in slices:
        if one.name not in parameters:
            raise CoverageError(
                f"{where}: {shown(one.name)} is no parameter of the model, and {one} is there"
            )
        found.setdefault((one.part, one.name), []).append(one)
    expected = set(_expected(parameters))
    for part, name in found.keys() - expected:
        raise CoverageError(f"{where}: {shown(name)} is not trained, and there is {part} of it")
    for part, name in sorted(expected):
        shape, _ = parameters[name]
        _check_one(sorted(found.get((part, name), []), key=lambda s: s.start), part, name, prod(shape), where)


def _expected(parameters: Parameters) -> Iterator[tuple[str, str]]:
    for name, (_, trained) in parameters.items():
        for part in SAVED_PARTS if trained else SAVED_PARTS[:1]:
            yield part, name


def _check_one(slices: list[Slice], part: str, name: str, numel: int, where: str) -> None:
    end = 0
    for one in slices:
        if one.start > end:
            break
        if one.start < end:
            raise CoverageError(
                f"{where}: elements {one.start} to {end} of {part} of {shown(name)} are there twice"
            )
        end = one.stop
    if end > numel:
        raise CoverageError(f"{where}: {part} of {shown(name)} has {numel} elements, and {end} are there")
    if end < numel:
        following = next((s.start for s in slices if s.start > end), numel)
        raise CoverageError(f"{where}: elements {end} to {following} of {part} of {shown(name)} are missing")
