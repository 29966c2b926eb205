"""Named tensors on disk, of which any slice can be read: what all readers of weights have in common."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError
from moec.runtime.weights.layout import Box, Place, as_it_is, flat_range
from moec.runtime.weights.strided import read_strided
from moec.runtime.weights.tensor_file import DTYPES, Entry, read_slice, shown

MAX_LISTED = 5
"""Problems that one message lists; the rest is counted."""
_OPEN_FILES = 64  # at a time: a checkpoint may have more files than a process may open


@dataclass(frozen=True)
class Located:
    """Where a parameter is: the file, its tensor there, what the file's header says of that, and, if the
    tensor is made of several, its place in it."""

    path: Path
    tensor: str
    entry: Entry
    fused: Place | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        return self.entry.shape if self.fused is None else self.fused.shape

    @property
    def place(self) -> Place:
        """Its place in the tensor."""
        return self.fused or as_it_is(self.entry.shape)

    def __str__(self) -> str:
        return f"{shown(self.tensor)} of {self.path}"


class StoredTensors:
    """Tensors by moec's names. Files are opened when they are read, a few at a time."""

    def __init__(self, source: Path, located: Mapping[str, Located]) -> None:
        self.source = source
        self._located = located
        self._open = lru_cache(maxsize=_OPEN_FILES)(ReadOnlyFile)

    def names(self) -> Iterable[str]:
        """moec's names of all tensors."""
        return self._located.keys()

    def verify_share(self, rank: int, world: int) -> None:
        """Compare files with their digests, this rank those that fall to it of `world`; here there are none.

        Raises:
            IntegrityError: a file is not what was written.
            InputOutputError: reading failed.
        """

    def fingerprint(self) -> str:
        """What tells these tensors from others without reading them: names, places, headers, sizes of files.

        Paths are left out: the same files may be elsewhere on another machine.
        """
        facts = [
            (
                name,
                found.path.name,
                found.tensor,
                found.entry.dtype,
                found.entry.shape,
                found.entry.begin_bytes,
            )
            for name, found in sorted(self._located.items())
        ]
        sizes = {found.path.name: self._open(found.path).size_bytes for found in self._located.values()}
        return hashlib.sha256(json.dumps([facts, sizes]).encode()).hexdigest()

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor."""
        return self._find(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """The dtype that a tensor is stored in.

        Raises:
            IntegrityError: no tensor of that name, or of a dtype that is not read, such as float8.
        """
        located = self._find(name)
        if located.entry.dtype not in DTYPES:
            raise IntegrityError(f"{located} has dtype {located.entry.dtype}, which cannot be read")
        return DTYPES[located.entry.dtype]

    def read(self, name: str, start: int, count: int) -> Tensor:
        """(count,) in the stored dtype, on the CPU: the elements from flat index `start` on.

        Raises:
            IntegrityError: no tensor of that name, or its file has changed.
            IndexError: the tensor has no such elements.
            InputOutputError: reading failed.
        """
        located = self._find(name)
        dtype = self.dtype(name)
        if located.fused is None:
            return read_slice(self._open(located.path), located.entry, start, count)
        if start < 0 or count < 0 or start + count > prod(located.shape):
            raise IndexError(f"elements {start} to {start + count} of a parameter of {prod(located.shape)}")
        values, filled = torch.empty(count, dtype=dtype), 0
        for box in flat_range(located.shape, start, start + count):
            sizes = [high - low for low, high in box]
            part = values[filled : filled + prod(sizes)]
            self._fill(part.view(sizes), located, box)
            filled += part.numel()
        return values

    def read_box(self, name: str, box: Box) -> Tensor:
        """The elements in a box of the tensor, in the stored dtype, on the CPU.

        Raises:
            IntegrityError: no tensor of that name, or its file has changed.
            IndexError: the tensor has no such elements.
            InputOutputError: reading failed.
        """
        located = self._find(name)
        if len(box) != len(located.shape) or any(
            not 0 <= low <= high <= size for (low, high), size in zip(box, located.shape, strict=True)
        ):
            raise IndexError(f"{box} of a tensor of shape {located.shape}")
        values = torch.empty([high - low for low, high in box], dtype=self.dtype(name))
        self._fill(values, located, box)
        return values

    def _fill(self, into: Tensor, located: Located, box: Box) -> None:
        file = self._open(located.path)
        read_strided(partial(read_slice, file, located.entry), located.place.strided(box), into)

    def check_against(
        self,
        expected: Mapping[str, tuple[int, ...]],
        dtype: torch.dtype | None = None,
        *,
        cast: bool = False,
    ) -> None:
        """Exactly the tensors of `expected` are here, in these shapes, and can be read as `dtype` if given.

        Raises:
            IntegrityError: otherwise; it lists the first few problems.
        """
        raise_listed(self.source, self._problems(expected, dtype, cast))

    def check_dtype(self, name: str, dtype: torch.dtype, *, cast: bool) -> None:
        """The tensor can be read as `dtype`: it is that, widens to it exactly, or `cast` lets it be rounded.

        Raises:
            IntegrityError: otherwise.
        """
        stored = self.dtype(name)
        if stored == dtype or (_both_float(stored, dtype) and (cast or _widens(stored, dtype))):
            return
        raise IntegrityError(f"{self._find(name)} is {_word(stored)}, {_word(dtype)} is needed")

    def check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """The tensor has this shape.

        Raises:
            IntegrityError: otherwise.
        """
        located = self._find(name)
        if located.shape != shape:
            raise IntegrityError(f"{located} has shape {located.entry.shape}, {shape} is needed for {name}")

    def _problems(
        self, expected: Mapping[str, tuple[int, ...]], dtype: torch.dtype | None, cast: bool
    ) -> Iterator[str]:
        for name in self._located.keys() - expected.keys():
            yield f"{self._located[name]} is no parameter of the model"
        for name, shape in expected.items():
            try:
                self.check_shape(name, shape)
                if dtype is not None:
                    self.check_dtype(name, dtype, cast=cast)
            except IntegrityError as error:
                yield str(error)

    def _find(self, name: str) -> Located:
        if name not in self._located:
            raise IntegrityError(f"{self.source} has no tensor {shown(name)}")
        return self._located[name]


def contradictions(index: Mapping[str, str], headers: Mapping[str, Mapping[str, object]]) -> Iterator[str]:
    """Where an index (tensor -> file) and the headers of its files (file -> tensors) differ."""
    for name, file in index.items():
        if name not in headers[file]:
            yield f"{file} has no tensor {shown(name)}, which the index says is there"
    for file, tensors in headers.items():
        for name in tensors:
            if index.get(name) != file:
                yield f"{file} has a tensor {shown(name)}, which the index does not say is there"


def raise_listed(source: Path, problems: Iterable[str]) -> None:
    """Raise an IntegrityError that lists the first few problems and counts the rest, if there are any."""
    rest = iter(problems)
    listed = list(islice(rest, MAX_LISTED))
    if not listed:
        return
    others = sum(1 for _ in rest)
    lines = [*listed, *([f"and {others} more"] if others else [])]
    raise IntegrityError(f"{source} does not hold what is expected:\n  " + "\n  ".join(lines))


def _both_float(stored: torch.dtype, wanted: torch.dtype) -> bool:
    return stored.is_floating_point and wanted.is_floating_point


def _widens(stored: torch.dtype, wanted: torch.dtype) -> bool:
    """Whether every number of the one is a number of the other."""
    return torch.promote_types(stored, wanted) == wanted


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
