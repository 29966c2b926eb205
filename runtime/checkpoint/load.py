"""Reading a checkpoint into the state of a rank, at whatever layout either has."""

from __future__ import annotations

import hashlib
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from torch import Tensor

from moec.runtime.abi.buffers import Piece
from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError
from moec.runtime.state import TrainState
from moec.runtime.weights.tensor_file import DTYPES, Entry, read_header, read_slice, shown

from .folders import step_of
from .manifest import MODEL, NAME, CheckpointManifest, StoredFile, manifest_text, read_manifest
from .slices import SAVED_PARTS, Slice, parse_slice

BLOCK = 1 << 25
"""Elements that are read at a time."""

_CHUNK_BYTES = 16 << 20
_OPEN_FILES = 64
_HEADER_ENTRY_BYTES = 200  # beside its name, JSON of a tensor has less


@dataclass(frozen=True, slots=True)
class Part:
    """Elements of a slice: `count` from `start` of its parameter on, in the file `file`."""

    file: str
    slice: Slice
    start: int
    count: int


class Checkpoint:
    """A checkpoint on disk, whose manifest is true to itself and whose files are there in their sizes.

    Digests are not compared before `verify`; tensors are read when they are asked for.

    Raises:
        IntegrityError: a file is missing, strange, a link, or of another size; or the manifest is damaged.
        InputOutputError: reading failed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: CheckpointManifest = read_manifest(folder)
        if step_of(folder.name) not in (None, self.manifest.step):
            raise IntegrityError(f"{folder / NAME} is that of step {self.manifest.step}")
        _check_folder(folder, self.manifest)
        self._by_parameter: dict[tuple[str, str], list[tuple[int, str, Slice]]] = {}
        for file, slices in self.manifest.slices.items():
            for one in slices:
                self._by_parameter.setdefault((one.part, one.name), []).append((one.start, file, one))
        for found in self._by_parameter.values():
            found.sort(key=lambda item: item[0])
        self._open = lru_cache(maxsize=_OPEN_FILES)(self._opened)

    def files(self) -> tuple[str, ...]:
        """The names of all files but the manifest."""
        return tuple(self.manifest.files)

    def digest(self) -> str:
        """The SHA-256 of the manifest, which has those of the files."""
        return hashlib.sha256(manifest_text(self.manifest)).hexdigest()

    def verify(self, name: str) -> None:
        """Read a file whole: it has its digest, and its header is what the manifest says.

        Raises:
            IntegrityError: otherwise.
            InputOutputError: reading failed.
        """
        file, stored = ReadOnlyFile(self.folder / name), self.manifest.files[name]
        digest = hashlib.sha256()
        for begin in range(0, file.size_bytes, _CHUNK_BYTES):
            digest.update(file.read(begin, min(_CHUNK_BYTES, file.size_bytes - begin)))
        if digest.hexdigest() != stored.sha256:
            raise IntegrityError(
                f"{self.folder / name} is damaged: its SHA-256 is {digest.hexdigest()}, "
                f"and {stored.sha256} in {NAME}"
            )
        if name != MODEL:
            self._open(name)

    def verify_share(self, rank: int, world: int) -> None:
        """`verify` the files that fall to one rank of `world`."""
        for name in self.files()[rank::world]:
            self.verify(name)

    def source(self) -> str:
        """The text of the model."""
        file = ReadOnlyFile(self.folder / MODEL)
        try:
            return bytes(file.read(0, file.size_bytes)).decode()
        except UnicodeDecodeError as error:
            raise IntegrityError(f"{self.folder / MODEL} is no text: {error}") from error

    def dtypes(self, part: str, name: str) -> set[str]:
        """The dtypes that a part of a parameter is stored in, as safetensors names them."""
        return {self._open(file)[1][str(one)].dtype for _, file, one in self._by_parameter[part, name]}

    def parts(self, part: str, name: str, start: int, count: int) -> Iterator[Part]:
        """Where the elements from `start` on are, in order.

        Raises:
            IntegrityError: there are no such elements.
        """
        found = self._by_parameter.get((part, name), [])
        at, stop = start, start + count
        index = max(0, bisect_right(found, at, key=lambda item: item[0]) - 1)
        for _, file, one in found[index:]:
            if at >= stop or not one.start <= at < one.stop:
                break
            end = min(stop, one.stop)
            yield Part(file, one, at, end - at)
            at = end
        if at < stop:
            raise IntegrityError(f"{self.folder} has no elements {at} to {stop} of {part} of {shown(name)}")

    def read(self, part: str, name: str, start: int, count: int) -> Iterator[Tensor]:
        """The elements from flat index `start` on, in blocks of at most `BLOCK`, in the stored dtypes."""
        for found in self.parts(part, name, start, count):
            file, entries = self._open(found.file)
            entry = entries[str(found.slice)]
            first = found.start - found.slice.start
            for begin in range(0, found.count, BLOCK):
                yield read_slice(file, entry, first + begin, min(BLOCK, found.count - begin))

    def _opened(self, name: str) -> tuple[ReadOnlyFile, dict[str, Entry]]:
        file = ReadOnlyFile(self.folder / name)
        stored = self.manifest.files[name]
        return file, _header(file, stored)


def load_state(state: TrainState, checkpoint: Checkpoint) -> None:
    """Fill a rank's parameters and moments; gradients and padding become zero.

    Raises:
        IntegrityError: the checkpoint lacks elements.
        InputOutputError: reading failed.
    """
    state.written.clear()
    for gradient in state.gradients.values():
        gradient.zero_()
    for part in SAVED_PARTS:
        _load_part(state, checkpoint, part)


def load_parameters(state: TrainState, checkpoint: Checkpoint) -> None:
    """Fill a rank's parameters alone. Errors are those of `load_state`."""
    state.written.clear()
    _load_part(state, checkpoint, SAVED_PARTS[0])


def _load_part(state: TrainState, checkpoint: Checkpoint, part: str) -> None:
    for name, shard in state.parts[part].items():
        shard.zero_()
        for piece in state.pieces(name):
            _fill(shard, piece, checkpoint, part)
            if part == "parameter":
                state.written.add(name, piece, 0, piece.count)


def _fill(shard: Tensor, piece: Piece, checkpoint: Checkpoint, part: str) -> None:
    at = piece.offset
    for block in checkpoint.read(part, piece.name, piece.start, piece.count):
        shard[at : at + block.numel()].copy_(block)
        at += block.numel()


def _check_folder(folder: Path, manifest: CheckpointManifest) -> None:
    """Exactly the files of the manifest are there, each an ordinary file of its size."""
    expected = {NAME, *manifest.files}
    for entry in os.scandir(folder):
        if entry.name not in expected:
            raise IntegrityError(f"{folder / entry.name} is no part of the checkpoint")
        if not entry.is_file(follow_symlinks=False):
            raise IntegrityError(f"{folder / entry.name} is no ordinary file")
    for name, stored in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise IntegrityError(f"{path} is missing")
        found = path.stat().st_size
        if found != stored.size_bytes:
            word = "truncated" if found < stored.size_bytes else "changed"
            raise IntegrityError(
                f"{path} is {word}: it has {found} bytes and was written with {stored.size_bytes}"
            )


def _header(file: ReadOnlyFile, stored: StoredFile) -> dict[str, Entry]:
    """The tensors of a file, found to be the slices that the manifest names."""
    limit = 1000 + sum(len(text.encode()) * 6 + _HEADER_ENTRY_BYTES for text in stored.slices)
    entries = read_header(file, limit)
    if list(entries) != list(stored.slices):
        raise IntegrityError(f"{file.path}: its tensors are not the slices that {NAME} names")
    for text, entry in entries.items():
        one = parse_slice(text)
        if one is None or entry.shape != (one.count,) or entry.dtype not in DTYPES:
            raise IntegrityError(f"{file.path}: {shown(text)} is {entry.dtype} {entry.shape}")
        if not DTYPES[entry.dtype].is_floating_point:
            raise IntegrityError(f"{file.path}: {shown(text)} is {entry.dtype}, which no state is")
    return entries
