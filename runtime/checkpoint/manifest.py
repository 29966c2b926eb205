"""`manifest.json` of a checkpoint: what was saved, of which run, and which file holds which slices.

    {"format": "moec checkpoint", "version": 1, "step": 42, ..., "mesh": {...}, "data": {...},
     "parameters": {"embed": {"shape": [64, 16], "trained": true}, ...},
     "files": {"parameter-00000.safetensors": {"size_bytes": 4176, "sha256": "...",
                                               "slices": ["parameter/embed[0:1024]"]}, ...},
     "digest": "..."}

`digest` is the SHA-256 of all else in it, as `dump` writes it. A manifest may come from anyone: nothing is
opened, and nothing of a size that it names is allocated, before all of it is known to fit together.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from moec.runtime.abi.bundle import with_digest
from moec.runtime.abi.codec import FormatError, check_legible, dump, from_data, parse_json, to_data
from moec.runtime.abi.mesh import Mesh
from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError
from moec.runtime.weights.tensor_file import MAX_DIMS, MAX_SIZE, shown

from .coverage import check_coverage
from .slices import SAVED_PARTS, Slice, parse_slice

NAME = "manifest.json"
MODEL = "model.moe"
FORMAT = "moec checkpoint"
VERSION = 1

MAX_BYTES = 64 << 20
MAX_MODEL_BYTES = 1 << 20

_LEAST_BYTES = 60  # of a tensor in the header of a file, so that no slice is parsed which cannot be there

_SHARD_NAME = re.compile(rf"(?:{'|'.join(SAVED_PARTS)})-[0-9]{{5,7}}\.safetensors")
_BEFORE_DIGEST, _AFTER_DIGEST = b',\n "digest": "', b'"\n}\n'
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class StoredFile:
    """A file as it was written: size, SHA-256, and what its tensors are, in order."""

    size_bytes: int
    sha256: str
    slices: tuple[str, ...]


@dataclass(frozen=True)
class StoredParameter:
    """A parameter of the model. What is not trained, such as a router's correction bias, has no moments."""

    shape: tuple[int, ...]
    trained: bool


@dataclass(frozen=True)
class DataPosition:
    """Where in the data the run is: a digest of the tokens, and how many sequences it has seen."""

    fingerprint: str
    sequences: int


@dataclass(frozen=True)
class CheckpointManifest:
    """Everything about a checkpoint but its tensors.

    `step` steps of `steps` are done; `facts` are the values of model and training by path, as `--set` has
    them; `bundle` is the digest of the bundle that wrote it; `saved` is UTC, in ISO 8601.
    """

    format: str
    version: int
    step: int
    steps: int
    saved: str
    moec: str
    torch: str
    bundle: str
    model: str
    seed: int
    facts: dict[str, str]
    mesh: Mesh
    data: DataPosition
    parameters: dict[str, StoredParameter]
    files: dict[str, StoredFile]

    @property
    def world(self) -> int:
        """How many ranks wrote it."""
        return self.mesh.world

    def passed_over(self, batch_sequences: int) -> int:
        """How many batches of so many sequences the run had passed over: see `TrainState`."""
        return max(0, self.data.sequences // batch_sequences - self.step)

    @cached_property
    def slices(self) -> dict[str, tuple[Slice, ...]]:
        """File name -> its slices. Raises IntegrityError where a text is none."""
        return {name: tuple(_slice(text, name) for text in file.slices) for name, file in self.files.items()}

    def check(self, where: str) -> None:
        """Names, sizes and slices are such as a run writes, and hold every element once.

        Raises:
            IntegrityError: it names what is wrong.
        """
        for name, stored in self.files.items():
            _check_file(name, stored, where)
        if MODEL not in self.files:
            raise IntegrityError(f"{where}: {MODEL} is none of its files")
        for name, parameter in self.parameters.items():
            if len(parameter.shape) > MAX_DIMS or not all(0 <= size <= MAX_SIZE for size in parameter.shape):
                raise IntegrityError(f"{where}: {shown(name)} has a shape that no tensor has")
        if not 0 <= self.step <= 1 << 40 or not self.step <= self.steps <= 1 << 40 or self.data.sequences < 0:
            raise IntegrityError(f"{where}: its steps are not those of a run")
        shapes = {name: (p.shape, p.trained) for name, p in self.parameters.items()}
        check_coverage(shapes, (one for slices in self.slices.values() for one in slices), where)


def manifest_text(manifest: CheckpointManifest) -> bytes:
    """The manifest as JSON, with its digest."""
    return dump(with_digest(to_data(manifest)))


def read_manifest(folder: Path) -> CheckpointManifest:
    """The manifest of a checkpoint, found to be true to itself; files are not looked at.

    Raises:
        IntegrityError: it is missing, damaged, or contradicts itself.
        InputOutputError: reading failed.
    """
    path = folder / NAME
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"{path} is missing")
    file = ReadOnlyFile(path)
    if file.size_bytes > MAX_BYTES:
        raise IntegrityError(f"{path} has {file.size_bytes} bytes; at most {MAX_BYTES} are read")
    raw = bytes(file.read(0, file.size_bytes))
    try:
        manifest = _manifest(raw, str(path))
    except (FormatError, ValueError) as error:
        raise IntegrityError(str(error)) from error
    manifest.check(str(path))
    return manifest


def _manifest(raw: bytes, where: str) -> CheckpointManifest:
    data = parse_json(raw, where)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise IntegrityError(f"{where} is not the manifest of a checkpoint")
    if data.get("version") != VERSION:
        raise IntegrityError(f"{where} has version {str(data.get('version'))[:20]!a}; {VERSION} can be read")
    check_legible(data, where)
    if data.pop("digest", None) != _digest_of(raw):
        raise IntegrityError(f"{where} is damaged: its content does not have the digest in it")
    found: Any = from_data(CheckpointManifest, data, where)
    return found  # type: ignore[no-any-return]


def _digest_of(raw: bytes) -> str:
    """The digest that `with_digest` gives to all before it, found without writing that again."""
    end = raw.rfind(_BEFORE_DIGEST)
    rest = raw[:end] + _AFTER_DIGEST[1:]
    digest = hashlib.sha256(rest).hexdigest()
    is_whole = raw[end:] == _BEFORE_DIGEST + digest.encode() + _AFTER_DIGEST
    return digest if end >= 0 and is_whole else ""


def _check_file(name: str, stored: StoredFile, where: str) -> None:
    if name != MODEL and not _SHARD_NAME.fullmatch(name):
        raise IntegrityError(f"{where}: {shown(name)} is not the name of a file of a checkpoint")
    if not _SHA256.fullmatch(stored.sha256) or stored.size_bytes < 0:
        raise IntegrityError(f"{where}: {name} is not described by a size and a SHA-256")
    if len(stored.slices) * _LEAST_BYTES > stored.size_bytes:
        raise IntegrityError(f"{where}: {name} holds more slices than it has room for")
    if name == MODEL and (stored.slices or stored.size_bytes > MAX_MODEL_BYTES):
        raise IntegrityError(f"{where}: {name} is no text of a model")


def _slice(text: str, file: str) -> Slice:
    found = parse_slice(text)
    if found is None:
        raise IntegrityError(f"{NAME}: {file} holds {shown(text)}, which is no slice of a parameter")
    return found
