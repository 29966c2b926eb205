"""Places of all ranks, on disk: `OUT/ranks/rank-00003`, one small file a rank, written over and over.

The run's folder is the one thing that ranks share while their main threads are blocked in a collective: it
needs no help of the network that may be what is broken, and it keeps the place of a rank that was stopped or
killed. A file is written in place, at once, and read as a whole; one that is half-written does not parse, and
counts as not there.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from moec.runtime.abi.codec import FormatError, dump, from_data, parse_json, to_data

from .place import Place

FOLDER = "ranks"
_SPEAKER = "speaker"
_MAX_BYTES = 64 << 10


class Board:
    """The places of the ranks of a run, in the folder `OUT/ranks`, which is there.

    Nothing is raised where the file system fails: what watches a run must not end it.
    """

    def __init__(self, folder: Path, rank: int, world: int) -> None:
        self.folder, self.rank, self.world = folder, rank, world
        self._length = 0

    def post(self, place: Place) -> None:
        """Show where this rank is."""
        text = dump(to_data(place))
        padded = text.ljust(self._length)
        self._length = len(padded)
        with suppress(OSError):
            descriptor = os.open(self._path(self.rank), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                os.pwrite(descriptor, padded, 0)
            finally:
                os.close(descriptor)

    def places(self) -> dict[int, Place]:
        """Every rank's place that can be read."""
        found = {rank: self._read(rank) for rank in range(self.world)}
        return {rank: place for rank, place in found.items() if place is not None}

    def speak(self) -> bool:
        """Whether this rank is the one that speaks for all: the first that asks."""
        try:
            os.close(os.open(self.folder / _SPEAKER, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
        except FileExistsError:
            return False
        except OSError:
            return True
        return True

    def _path(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05}"

    def _read(self, rank: int) -> Place | None:
        try:
            raw = self._path(rank).read_bytes()
            if len(raw) > _MAX_BYTES:
                return None
            place: Place = from_data(Place, parse_json(raw, "place"), "place")
        except (OSError, FormatError, ValueError):
            return None
        return place if place.rank == rank else None


def clear(folder: Path) -> None:
    """An empty board, on rank 0, before the others post. Raises OSError."""
    folder.mkdir(exist_ok=True)
    for entry in os.scandir(folder):
        if entry.name == _SPEAKER or entry.name.startswith("rank-"):
            os.unlink(entry)


def remove(folder: Path) -> None:
    """After a run that ended well, when no rank posts any more."""
    with suppress(OSError):
        clear(folder)
        folder.rmdir()
