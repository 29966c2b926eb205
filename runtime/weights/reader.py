"""Reading a weights directory as `WeightsWriter` leaves it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError
from moec.runtime.weights.index import FileEntry, Index, index_text, read_index
from moec.runtime.weights.stored import Located, StoredTensors, contradictions, raise_listed
from moec.runtime.weights.tensor_file import Entry, read_header, shown

_CHUNK_BYTES = 16 << 20


class WeightsReader(StoredTensors):
    """The tensors of a weights directory.

    Opening reads the index and all headers, and finds them in agreement; tensors are read when asked for.

    Raises:
        UserError: no such directory, or it holds no weights.
        IntegrityError: index and files contradict each other.
        InputOutputError: reading failed.
    """

    def __init__(self, directory: Path) -> None:
        self._index = read_index(directory)
        headers = {name: _header(directory, name, entry) for name, entry in self._index.files.items()}
        raise_listed(directory, _contradictions(self._index, headers))
        paths = {name: directory / name for name in headers}
        located = {
            name: Located(paths[entry.file], name, headers[entry.file][name])
            for name, entry in self._index.tensors.items()
        }
        super().__init__(directory, located)

    def files(self) -> tuple[str, ...]:
        """The names of the files, in the order of the index."""
        return tuple(self._index.files)

    def verify_share(self, rank: int, world: int) -> None:
        """See `StoredTensors.verify_share`: every file is read by one rank."""
        self.verify(self.files()[rank::world])

    def fingerprint(self) -> str:
        """The digest of the index, which has the digests of the files."""
        return hashlib.sha256(index_text(self._index)).hexdigest()

    def verify(self, files: Iterable[str] | None = None) -> None:
        """Read files whole, by default all, and compare them with their digests.

        Raises:
            IntegrityError: a file is not what was written.
            InputOutputError: reading failed.
        """
        for name in self.files() if files is None else files:
            if _sha256(ReadOnlyFile(self.source / name)) != self._index.files[name].sha256:
                raise IntegrityError(
                    f"{self.source / name} is damaged: its content does not have the digest in the index"
                )


def _header(directory: Path, name: str, entry: FileEntry) -> dict[str, Entry]:
    path = directory / name
    if not path.is_file():
        raise IntegrityError(f"{path} is missing")
    file = ReadOnlyFile(path)
    if file.size_bytes != entry.size_bytes:
        word = "truncated" if file.size_bytes < entry.size_bytes else "changed"
        raise IntegrityError(
            f"{path} is {word}: it has {file.size_bytes} bytes and was written with {entry.size_bytes}"
        )
    return read_header(file)


def _contradictions(index: Index, headers: dict[str, dict[str, Entry]]) -> Iterator[str]:
    yield from contradictions({name: entry.file for name, entry in index.tensors.items()}, headers)
    for name, entry in index.tensors.items():
        found = headers[entry.file].get(name)
        if found is not None and (found.dtype, found.shape) != (entry.dtype, entry.shape):
            yield (
                f"{shown(name)} is {found.dtype} {found.shape} in {entry.file}, "
                f"but {entry.dtype} {entry.shape} in the index"
            )


def _sha256(file: ReadOnlyFile) -> str:
    digest = hashlib.sha256()
    for begin in range(0, file.size_bytes, _CHUNK_BYTES):
        digest.update(file.read(begin, min(_CHUNK_BYTES, file.size_bytes - begin)))
    return digest.hexdigest()
