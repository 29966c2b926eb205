"""Megatron's indexed datasets: a `.bin` of token ids and an `.idx` that says where each sequence lies.

The index (Megatron-LM, megatron/core/datasets/indexed_dataset.py), little-endian:

    9 bytes   magic "MMIDIDX\\0\\0"
    uint64    version, 1
    uint8     type of the ids: 1 uint8, 2 int8, 3 int16, 4 int32, 5 int64, 6 float64, 7 float32, 8 uint16
    uint64    N, the sequences
    uint64    D, the document bounds: documents + 1
    int32[N]  tokens of each sequence
    int64[N]  byte of the `.bin` at which each sequence starts
    int64[D]  first sequence of each document, and at last N
    int8[N]   modes of the sequences, in multimodal datasets only

Sequences lie one after the other, as every writer of the format lays them, so that the stream is the `.bin`
itself.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from moec.runtime.data.files import ReadOnlyFile, written_whole
from moec.runtime.data.stream import Ids, check_ids, check_slice
from moec.runtime.errors import IntegrityError, UserError

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_CODES = {np.dtype(name): code for code, name in _DTYPES.items()}
_LENGTH, _OFFSET = np.dtype("<i4"), np.dtype("<i8")
_MAX_SEQUENCE = (1 << 31) - 1
_UINT16_VOCAB = 65_500  # Megatron writes uint16 below this vocab, int32 from it on
_CHUNK = 1 << 20  # entries of the index in memory at a time


@dataclass(frozen=True)
class _Header:
    dtype: np.dtype[np.integer[Any]]
    sequences: int
    bounds: int  # of documents

    @property
    def pointers_at(self) -> int:
        return _HEADER.size + self.sequences * _LENGTH.itemsize

    @property
    def bounds_at(self) -> int:
        return self.pointers_at + self.sequences * _OFFSET.itemsize

    @property
    def size_bytes(self) -> int:
        return self.bounds_at + self.bounds * _OFFSET.itemsize


class MegatronStream:
    """All sequences of an indexed dataset, in the order of its index, read from disk as they are asked for.

    Tokens that end documents are what the dataset has (`--append-eod`); none are added. Where documents start
    is what the index says.

    Raises:
        UserError: a file is missing, or the index is not one of integers of this format.
        IntegrityError: the parts of the index, or index and `.bin`, contradict each other.
        InputOutputError: reading failed.
    """

    def __init__(self, prefix: Path, vocab: int) -> None:
        index, self._bin = ReadOnlyFile(_path(prefix, ".idx")), ReadOnlyFile(_path(prefix, ".bin"))
        self.name = str(self._bin.path)
        header = _read_header(index)
        _check_bounds(index, header)
        size_bytes = _check_sequences(index, header)
        if size_bytes != self._bin.size_bytes:
            raise IntegrityError(
                f"{self._bin.path} has {self._bin.size_bytes} bytes, but {index.path} describes {size_bytes}"
            )
        self._index, self._header = index, header
        self._dtype, self._vocab = header.dtype, vocab
        self._tokens = size_bytes // header.dtype.itemsize

    def __len__(self) -> int:
        return self._tokens

    def read(self, start: int, count: int) -> Ids:
        """See `TokenStream.read`."""
        check_slice(self, start, count)
        content = self._bin.read(start * self._dtype.itemsize, count * self._dtype.itemsize)
        tokens = np.frombuffer(content, self._dtype)
        check_ids(tokens, self._vocab, self.name, start)
        return tokens.astype(np.int64)

    def documents(self, start: int, count: int) -> Ids:
        """See `TokenStream.documents`. The index is searched on disk: it may be larger than memory."""
        check_slice(self, start, count)
        bounds = range(self._header.bounds - 1)  # the last is no document's, but the end
        first, last = (bisect_right(bounds, p, key=self._document) for p in (start, start + count - 1))
        if first >= last:
            return np.empty(0, np.int64)
        sequences = self._read(self._header.bounds_at, first, last - first)
        low, high = int(sequences[0]), int(sequences[-1])
        pointers = self._read(self._header.pointers_at, low, high - low + 1)
        return np.unique(pointers[sequences - low]) // self._dtype.itemsize

    def _document(self, number: int) -> int:
        """The token that a document starts with."""
        sequence = int(self._read(self._header.bounds_at, number, 1)[0])
        if sequence == self._header.sequences:  # it is empty, and the last
            return self._tokens
        return int(self._read(self._header.pointers_at, sequence, 1)[0]) // self._dtype.itemsize

    def _read(self, array_at: int, first: int, count: int) -> NDArray[np.int64]:
        """Entries of an array of int64 in the index."""
        content = self._index.read(array_at + first * _OFFSET.itemsize, count * _OFFSET.itemsize)
        return np.frombuffer(content, _OFFSET).astype(np.int64)


def write_megatron(prefix: Path, documents: Iterable[NDArray[np.integer]], vocab: int) -> int:
    """Write `prefix`.bin and `prefix`.idx, a sequence for each document; returns the tokens written.

    Both take their names when both are complete.

    Raises:
        UserError: an id that is not below `vocab`, a document of 2^31 tokens or more, or no such directory.
        InputOutputError: writing failed.
    """
    dtype = np.dtype("<u2" if vocab < _UINT16_VOCAB else "<i4")
    lengths = array("i")
    with written_whole(_path(prefix, ".idx")) as index, written_whole(_path(prefix, ".bin")) as ids:
        for document in documents:
            name = f"{prefix}: document {len(lengths)}"
            check_ids(document, vocab, name)
            if len(document) > _MAX_SEQUENCE:
                raise UserError(f"{name} has {len(document)} tokens; the format holds {_MAX_SEQUENCE}")
            ids.write(document.astype(dtype).tobytes())
            lengths.append(len(document))
        _write_index(index, np.array(lengths, _LENGTH), dtype)
    return sum(lengths)


def _write_index(index: BinaryIO, lengths: NDArray[np.int32], dtype: np.dtype[Any]) -> None:
    ends = np.cumsum(lengths, dtype=_OFFSET)
    index.write(_HEADER.pack(MAGIC, VERSION, _CODES[dtype], len(lengths), len(lengths) + 1))
    index.write(lengths.tobytes())
    index.write(((ends - lengths) * dtype.itemsize).astype(_OFFSET).tobytes())
    index.write(np.arange(len(lengths) + 1, dtype=_OFFSET).tobytes())


def _path(prefix: Path, suffix: str) -> Path:
    """`corpus.en` -> `corpus.en.bin`; `with_suffix` would drop the `.en`."""
    return prefix.with_name(prefix.name + suffix)


def _read_header(index: ReadOnlyFile) -> _Header:
    if index.size_bytes < _HEADER.size:
        raise IntegrityError(f"{index.path} has {index.size_bytes} bytes; its header has {_HEADER.size}")
    magic, version, code, sequences, bounds = _HEADER.unpack(index.read(0, _HEADER.size))
    if magic != MAGIC:
        raise UserError(f"{index.path} is not the index of a Megatron dataset: it starts with {magic!r}")
    if version != VERSION:
        raise UserError(f"{index.path} has version {version}; version {VERSION} can be read")
    if code not in _DTYPES:
        raise UserError(f"{index.path} has ids of type {code}, which is no integer type of the format")
    header = _Header(np.dtype(_DTYPES[code]), sequences, bounds)
    if index.size_bytes == header.size_bytes + sequences and sequences:
        raise UserError(f"{index.path} has modes: multimodal datasets cannot be read")
    if index.size_bytes != header.size_bytes:
        raise IntegrityError(
            f"{index.path} has {index.size_bytes} bytes, but {sequences} sequences and {bounds} document "
            f"bounds make {header.size_bytes}"
        )
    return header


def _check_bounds(index: ReadOnlyFile, header: _Header) -> None:
    """Documents start at sequence 0, never go back, and end with the last sequence."""
    last = 0
    for first, bounds in _entries(index, header.bounds_at, header.bounds, _OFFSET):
        if first == 0 and bounds[0] != 0:
            raise IntegrityError(f"{index.path}: the first document starts at sequence {bounds[0]}, not at 0")
        back = bounds < np.concatenate(([last], bounds[:-1]))
        if back.any():
            place = int(np.argmax(back))
            raise IntegrityError(f"{index.path}: document bound {first + place} goes back to {bounds[place]}")
        last = int(bounds[-1])
    if last != header.sequences:
        raise IntegrityError(
            f"{index.path}: the documents end at sequence {last}, but there are {header.sequences} sequences"
        )


def _check_sequences(index: ReadOnlyFile, header: _Header) -> int:
    """Sequences follow each other without gap; returns the bytes they take together."""
    end_bytes = 0
    all_lengths = _entries(index, _HEADER.size, header.sequences, _LENGTH)
    all_pointers = _entries(index, header.pointers_at, header.sequences, _OFFSET)
    for (first, lengths), (_, pointers) in zip(all_lengths, all_pointers, strict=True):
        if (lengths < 0).any():
            place = int(np.argmax(lengths < 0))
            raise IntegrityError(f"{index.path}: sequence {first + place} has {lengths[place]} tokens")
        ends = end_bytes + np.cumsum(lengths, dtype=np.int64) * header.dtype.itemsize
        starts = np.concatenate(([end_bytes], ends[:-1]))
        if (pointers != starts).any():
            place = int(np.argmax(pointers != starts))
            raise IntegrityError(
                f"{index.path}: sequence {first + place} starts at byte {pointers[place]}, "
                f"but the sequences before it end at {starts[place]}"
            )
        end_bytes = int(ends[-1])
    return end_bytes


def _entries(
    file: ReadOnlyFile, offset_bytes: int, count: int, dtype: np.dtype[Any]
) -> Iterator[tuple[int, NDArray[Any]]]:
    """(number of the first entry, entries) of an array in a file, `_CHUNK` entries at a time."""
    for first in range(0, count, _CHUNK):
        size_bytes = min(_CHUNK, count - first) * dtype.itemsize
        yield first, np.frombuffer(file.read(offset_bytes + first * dtype.itemsize, size_bytes), dtype)
