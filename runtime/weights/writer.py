"""Writing a weights directory, region by region: nobody needs to hold the model, nothing is ever half there.

Everything goes into a sibling directory, which takes the name when all of it is on disk. An older weights
directory of that name is replaced then, and only if it holds nothing else; anything else there is refused
before a byte is written. Replacing takes two renames: a machine that stops between them leaves the old
directory as `.NAME.XXXXXXXX.old` and the new one as `.NAME.XXXXXXXX.partial`, both complete.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from moec.runtime.data.files import flush_directory
from moec.runtime.errors import InputOutputError, InternalError, UserError
from moec.runtime.weights.digested import Digested, bytes_of, flush_file
from moec.runtime.weights.index import INDEX_NAME, FileEntry, Index, TensorEntry, index_text, read_index
from moec.runtime.weights.tensor_file import CODES, header_of

PART_BYTES = 8 << 30
"""A region of more data than this goes into several files, unless it is one tensor."""

Shape = tuple[int, ...]
Blocks = Iterable[tuple[str, Tensor]]
"""(name, flat values): the values of tensors, one after another, each in as many blocks as one likes."""

_REGION = re.compile(r"([a-z_]{1,64})(?:\.([0-9]{1,9}))?")


def check_replaceable(directory: Path) -> None:
    """Weights may be written to `directory`: nothing is there, or an empty directory, or weights only.

    Raises:
        UserError: something else is there, or the directory above does not exist.
    """
    if not directory.parent.is_dir():
        raise UserError(f"cannot write {directory}: there is no directory {directory.parent}")
    if not os.path.lexists(directory):
        return
    if not directory.is_dir():
        raise UserError(f"cannot write {directory}: it exists and is no directory")
    entries = sorted(entry.name for entry in directory.iterdir())
    if not entries:
        return
    ours = {INDEX_NAME, *read_index(directory).files} if INDEX_NAME in entries else set()
    strange = next((name for name in entries if name not in ours), None)
    if strange is not None:
        raise UserError(
            f"cannot write {directory}: it holds {strange!r}, which is no part of weights to be replaced"
        )


class WeightsWriter:
    """A weights directory in the making; a context, whose end makes it complete or leaves nothing.

        with WeightsWriter(directory) as writer:
            writer.write_region("layers.3", {"layers.3.attention.q": (64, 16)}, torch.float32, blocks)

    Raises:
        UserError: `check_replaceable` says no.
        InputOutputError: writing failed.
    """

    def __init__(self, directory: Path, *, part_bytes: int = PART_BYTES) -> None:
        self._directory = directory.resolve()  # a link stays a link
        self._part_bytes = part_bytes
        check_replaceable(self._directory)
        unique = self._directory.with_name(f".{self._directory.name}.{secrets.token_hex(4)}")
        self._partial = unique.with_name(f"{unique.name}.partial")
        self._old = unique.with_name(f"{unique.name}.old")
        self._files: dict[str, FileEntry] = {}
        self._tensors: dict[str, TensorEntry] = {}
        self._total_bytes = 0

    def __enter__(self) -> WeightsWriter:
        try:
            self._partial.mkdir()
        except OSError as error:
            raise self._failed(error) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._complete()
        except OSError as failure:
            raise self._failed(failure) from failure
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)

    def write_region(
        self, region: str, shapes: Mapping[str, Shape], dtype: torch.dtype, blocks: Blocks
    ) -> None:
        """Write the tensors of a region, in the order of `shapes`, from `blocks` in the same order.

        `region` is such as `embed` or `layers.3`, and names the files. One block is in memory at a time.

        Raises:
            InternalError: a name that is written already, or blocks that do not make up the tensors.
            InputOutputError: writing failed.
        """
        again = self._tensors.keys() & shapes.keys()
        if again:
            raise InternalError(f"{min(again)} is written twice")
        parts = _parts(shapes, dtype, self._part_bytes)
        stream = iter(blocks)
        try:
            for number, part in enumerate(parts, 1):
                self._write_file(_file_name(region, number, len(parts)), part, dtype, stream)
        except OSError as error:
            raise self._failed(error) from error
        for name, _ in stream:
            raise InternalError(f"{region}: values of {name} are left when all tensors are written")

    def _write_file(
        self,
        file_name: str,
        shapes: Mapping[str, Shape],
        dtype: torch.dtype,
        blocks: Iterator[tuple[str, Tensor]],
    ) -> None:
        with (self._partial / file_name).open("xb") as file:
            out = Digested(file)
            out.write(memoryview(header_of(shapes, dtype)))
            for block in _in_order(shapes, dtype, blocks):
                out.write(bytes_of(block))
            flush_file(file)
        self._files[file_name] = out.entry()
        self._tensors |= {name: TensorEntry(file_name, CODES[dtype], shape) for name, shape in shapes.items()}
        self._total_bytes += dtype.itemsize * sum(map(prod, shapes.values()))

    def _complete(self) -> None:
        with (self._partial / INDEX_NAME).open("xb") as file:
            file.write(index_text(Index(self._total_bytes, self._files, self._tensors)))
            flush_file(file)
        flush_directory(self._partial)
        check_replaceable(self._directory)
        if self._directory.exists():
            self._replace()
        else:
            self._partial.rename(self._directory)
            flush_directory(self._directory.parent)

    def _replace(self) -> None:
        self._directory.rename(self._old)
        try:
            self._partial.rename(self._directory)
        except OSError:
            self._old.rename(self._directory)
            raise
        flush_directory(self._directory.parent)
        shutil.rmtree(self._old)

    def _failed(self, error: OSError) -> InputOutputError:
        return InputOutputError(f"cannot write {self._directory}: {error.strerror}")


def _parts(shapes: Mapping[str, Shape], dtype: torch.dtype, part_bytes: int) -> list[dict[str, Shape]]:
    """Consecutive tensors, as many as fit into a file; one that does not fit has its own."""
    parts: list[dict[str, Shape]] = [{}]
    filled_bytes = 0
    for name, shape in shapes.items():
        size_bytes = prod(shape) * dtype.itemsize
        if parts[-1] and filled_bytes + size_bytes > part_bytes:
            parts.append({})
            filled_bytes = 0
        parts[-1][name] = shape
        filled_bytes += size_bytes
    return parts


def _file_name(region: str, number: int, count: int) -> str:
    """`layers.3` -> `layers.00003.safetensors`, or `layers.00003-00001-of-00002.safetensors`."""
    match = _REGION.fullmatch(region)
    if match is None:
        raise InternalError(f"{region!r} is no name of a region")
    stem = match[1] if match[2] is None else f"{match[1]}.{int(match[2]):05}"
    part = f"-{number:05}-of-{count:05}" if count > 1 else ""
    return f"{stem}{part}.safetensors"


def _in_order(
    shapes: Mapping[str, Shape], dtype: torch.dtype, blocks: Iterator[tuple[str, Tensor]]
) -> Iterator[Tensor]:
    """The blocks that these tensors take, found to be theirs."""
    for name, shape in shapes.items():
        missing = prod(shape)
        while missing:
            got, block = next(blocks, ("nothing", torch.empty(0)))
            if got != name or block.dtype != dtype or not 0 < block.numel() <= missing:
                raise InternalError(
                    f"{name}: {missing} values of {dtype} are missing, and {block.numel()} of {block.dtype} "
                    f"come for {got}"
                )
            missing -= block.numel()
            yield block
