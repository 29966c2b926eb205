"""One safetensors file: its header, checked, and any slice of its tensors.

    8 bytes   length of the header, little-endian
    header    JSON: name -> {"dtype", "shape", "data_offsets": [begin, end]}; "__metadata__": name -> text
    data      the tensors, one after another without gaps; offsets count from here

The format is https://github.com/huggingface/safetensors. A file may come from anyone: nothing of it is used
before the header is known to describe exactly the bytes that the file has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from moec.runtime.abi.codec import FormatError, parse_json
from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError

MAX_HEADER_BYTES = 100_000_000
"""As in the reference implementation."""
MAX_NAME = 1024
MAX_DIMS = 8
MAX_SIZE = 1 << 60  # of a dim, so that nothing built from sizes is slow to compute

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
"""The dtypes that are read. Files may hold tensors of the others, which count as unreadable."""

CODES = {dtype: code for code, dtype in DTYPES.items()}

_BITS = {code: 8 * dtype.itemsize for code, dtype in DTYPES.items()} | {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "U16": 16, "U32": 32, "U64": 64, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its dtype as the format names it, and the byte of the file at which it begins."""

    dtype: str
    shape: tuple[int, ...]
    begin_bytes: int

    @property
    def numel(self) -> int:
        """How many elements it has."""
        return prod(self.shape)


def shown(name: str) -> str:
    """A name out of a file, fit for a message: quoted, without control characters, not too long."""
    return repr(name if len(name) <= 120 else name[:117] + "...")


def read_header(file: ReadOnlyFile, limit_bytes: int = MAX_HEADER_BYTES) -> dict[str, Entry]:
    """The tensors of a file, in the order of their data; its header has at most `limit_bytes`.

    Raises:
        IntegrityError: it is no safetensors file, or header and size contradict each other.
        InputOutputError: reading failed.
    """
    if file.size_bytes < 8:
        raise IntegrityError(f"{file.path} has {file.size_bytes} bytes: too few for a safetensors file")
    length_bytes = int.from_bytes(file.read(0, 8), "little")
    if length_bytes > min(limit_bytes, file.size_bytes - 8):
        raise IntegrityError(
            f"{file.path} is truncated or no safetensors file: it has {file.size_bytes} bytes, and its "
            f"header would have {length_bytes} (at most {limit_bytes})"
        )
    data = parsed(bytes(file.read(8, length_bytes)), str(file.path))
    data.pop("__metadata__", None)
    found = {name: _entry(file, name, value, 8 + length_bytes) for name, value in data.items()}
    ordered = dict(sorted(found.items(), key=lambda item: (item[1].begin_bytes, _size_bytes(item[1]))))
    _check_cover(file, ordered, 8 + length_bytes)
    return ordered


def parsed(raw: bytes, where: str) -> dict[str, Any]:
    """A JSON object, strictly: no key twice, no NaN, no deep nesting.

    Raises:
        IntegrityError: it is anything else.
    """
    try:
        data = parse_json(raw, where)
    except FormatError as error:
        raise IntegrityError(str(error)) from error
    if not isinstance(data, dict):
        raise IntegrityError(f"{where}: expected a JSON object")
    return data


def is_shape(value: object) -> bool:
    """Whether a JSON value is a shape: a short list of sizes."""
    return (
        isinstance(value, list)
        and len(value) <= MAX_DIMS
        and all(type(size) is int and 0 <= size <= MAX_SIZE for size in value)
    )


def _entry(file: ReadOnlyFile, name: str, value: object, data_at: int) -> Entry:
    where = f"{file.path}: tensor {shown(name)}"
    if len(name) > MAX_NAME:
        raise IntegrityError(f"{where}: its name has more than {MAX_NAME} characters")
    dtype, shape, begin, end = _described(value, where)
    if dtype not in _BITS:
        raise IntegrityError(f"{where}: the format has no dtype {shown(dtype)}")
    entry = Entry(dtype, shape, data_at + begin)
    if _BITS[dtype] * entry.numel != 8 * (end - begin):
        raise IntegrityError(
            f"{where}: {dtype} of shape {shape} does not fill the bytes {begin} to {end} of its offsets"
        )
    return entry


def _described(value: object, where: str) -> tuple[str, tuple[int, ...], int, int]:
    """dtype, shape, begin and end of a header's entry."""
    match value:
        case {
            "dtype": str(dtype),
            "shape": list(shape),
            "data_offsets": [int(begin), int(end)],
            **rest,
        } if not rest and is_shape(shape):
            return dtype, tuple(shape), begin, end
    raise IntegrityError(f"{where} is not described by a dtype, a shape and two data offsets")


def _size_bytes(entry: Entry) -> int:
    return _BITS[entry.dtype] * entry.numel // 8


def _check_cover(file: ReadOnlyFile, ordered: Mapping[str, Entry], data_at: int) -> None:
    """The tensors follow one another without gap or overlap, up to the end of the file."""
    end_bytes = data_at
    for name, entry in ordered.items():
        if entry.begin_bytes != end_bytes:
            word = "overlaps the tensor" if entry.begin_bytes < end_bytes else "leaves a gap to what is"
            raise IntegrityError(f"{file.path}: tensor {shown(name)} {word} before it")
        end_bytes += _size_bytes(entry)
    if end_bytes != file.size_bytes:
        raise IntegrityError(
            f"{file.path} has {file.size_bytes} bytes, but its header describes {end_bytes}: "
            f"{'truncated' if file.size_bytes < end_bytes else 'something follows the tensors'}"
        )


def read_slice(file: ReadOnlyFile, entry: Entry, start: int, count: int) -> Tensor:
    """(count,) of the entry's dtype: its elements from flat index `start` on. The entry's dtype is readable.

    Raises:
        IndexError: the tensor has no such elements.
        InputOutputError, IntegrityError: the file cannot be read there.
    """
    if start < 0 or count < 0 or start + count > entry.numel:
        raise IndexError(f"elements {start} to {start + count} of a tensor of {entry.numel}")
    dtype = DTYPES[entry.dtype]
    if count == 0:
        return torch.empty(0, dtype=dtype)
    content = file.read(entry.begin_bytes + start * dtype.itemsize, count * dtype.itemsize)
    return torch.frombuffer(content, dtype=dtype)


def header_of(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype) -> bytes:
    """What a file of these tensors begins with, padded so that the data is aligned for every dtype."""
    return header_of_each({name: (dtype, shape) for name, shape in shapes.items()})


def header_of_each(tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]]) -> bytes:
    """The same for tensors of several dtypes: name -> dtype and shape, in the order of their data."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end_bytes = 0
    for name, (dtype, shape) in tensors.items():
        begin_bytes, end_bytes = end_bytes, end_bytes + prod(shape) * dtype.itemsize
        entries[name] = {"dtype": CODES[dtype], "shape": shape, "data_offsets": (begin_bytes, end_bytes)}
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
