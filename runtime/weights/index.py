"""`weights.json`: which tensor is in which file, and the digests of the files.

{
  "format": "moec weights", "version": 1, "total_bytes": 4096,
  "files":   {"embed.safetensors": {"size_bytes": 4176, "sha256": "..."}},
  "tensors": {"embed": {"file": "embed.safetensors", "dtype": "F32", "shape": [64, 16]}}
}
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moec.runtime.abi.codec import dump
from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError, UserError
from moec.runtime.weights.tensor_file import DTYPES, is_shape, parsed, shown

INDEX_NAME = "weights.json"
FORMAT = "moec weights"
VERSION = 1
MAX_INDEX_BYTES = 256 << 20

_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,200}\.safetensors")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileEntry:
    """A file as it was written: its whole size and the SHA-256 of its content."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class TensorEntry:
    """A tensor: the file that holds it, its dtype as safetensors names it, its shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Index:
    """The content of `weights.json`. `total_bytes` counts the data of all tensors, without headers."""

    total_bytes: int
    files: Mapping[str, FileEntry]
    tensors: Mapping[str, TensorEntry]


def index_text(index: Index) -> bytes:
    """The index as JSON."""
    return dump(
        {
            "format": FORMAT,
            "version": VERSION,
            "total_bytes": index.total_bytes,
            "files": {name: asdict(entry) for name, entry in index.files.items()},
            "tensors": {name: asdict(entry) for name, entry in index.tensors.items()},
        }
    )


def read_index(directory: Path) -> Index:
    """The index of a weights directory.

    Raises:
        UserError: the directory has none, or one of another format or version.
        IntegrityError: it is damaged.
        InputOutputError: reading failed.
    """
    path = directory / INDEX_NAME
    if not path.is_file():
        raise UserError(f"{directory} holds no weights: it has no {INDEX_NAME}")
    data = read_json_file(path, MAX_INDEX_BYTES)
    if data.get("format") != FORMAT:
        raise UserError(f"{path} is not the index of a weights directory")
    if data.get("version") != VERSION:
        raise UserError(
            f"{path} has version {shown(str(data.get('version')))}; version {VERSION} can be read"
        )
    return _index(data, str(path))


def read_json_file(path: Path, limit_bytes: int) -> dict[str, Any]:
    """The JSON object that a file holds, strictly.

    Raises:
        UserError: no such file.
        IntegrityError: it is larger than `limit_bytes`, or no JSON object.
        InputOutputError: reading failed.
    """
    file = ReadOnlyFile(path)
    if file.size_bytes > limit_bytes:
        raise IntegrityError(f"{path} has {file.size_bytes} bytes; at most {limit_bytes} are read")
    return parsed(bytes(file.read(0, file.size_bytes)), str(path))


def check_file_name(name: str, where: str) -> None:
    """A plain file name of safetensors, so that no index leads out of its directory.

    Raises:
        IntegrityError: anything else.
    """
    if not _FILE_NAME.fullmatch(name):
        raise IntegrityError(f"{where}: {shown(name)} is not the name of a safetensors file beside it")


def _index(data: Mapping[str, Any], where: str) -> Index:
    if data.keys() != {"format", "version", "total_bytes", "files", "tensors"}:
        raise IntegrityError(f"{where}: its keys are not those of an index")
    total_bytes, files, tensors = data["total_bytes"], data["files"], data["tensors"]
    if type(total_bytes) is not int or not isinstance(files, dict) or not isinstance(tensors, dict):
        raise IntegrityError(f"{where}: total_bytes, files or tensors is of the wrong type")
    index = Index(
        total_bytes,
        {name: _file_entry(name, value, where) for name, value in files.items()},
        {name: _tensor_entry(name, value, where) for name, value in tensors.items()},
    )
    strange = next((e.file for e in index.tensors.values() if e.file not in index.files), None)
    if strange is not None:
        raise IntegrityError(f"{where}: a tensor is in {shown(strange)}, which is none of its files")
    return index


def _file_entry(name: str, value: object, where: str) -> FileEntry:
    check_file_name(name, where)
    match value:
        case {"size_bytes": int(size_bytes), "sha256": str(sha256), **rest} if not rest:
            if _SHA256.fullmatch(sha256):
                return FileEntry(size_bytes, sha256)
    raise IntegrityError(f"{where}: {name} is not described by a size and a SHA-256")


def _tensor_entry(name: str, value: object, where: str) -> TensorEntry:
    match value:
        case {"file": str(file), "dtype": str(dtype), "shape": list(shape), **rest} if not rest:
            if dtype in DTYPES and is_shape(shape):
                return TensorEntry(file, dtype, tuple(shape))
    raise IntegrityError(f"{where}: {shown(name)} is not described by a file, a dtype and a shape")
