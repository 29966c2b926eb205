"""The files of a profile: every rank writes its events, and rank 0 makes one trace of them.

Ranks meet in OUT/profile, so that nobody holds the events of all. Where a rank's file is not there for rank
0, because its machine has another OUT, it stays where it is and the trace says so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from moec.runtime.data.files import written_whole
from moec.runtime.record.names import PROFILE as PROFILE

TRACE = "trace.json"
_BLOCK_BYTES = 1 << 20


def part_path(folder: Path, nonce: str, rank: int) -> Path:
    """The file of a rank's events, one a line, of the run that has made `nonce`."""
    return folder / f"rank-{rank:05}.{nonce}.jsonl"


def write_part(path: Path, events: Iterable[Mapping[str, Any]]) -> None:
    """Write a rank's events. Raises InputOutputError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as file:
        for event in events:
            file.write(json.dumps(event, allow_nan=False).encode() + b"\n")


def merge(folder: Path, nonce: str, world: int, about: Mapping[str, Any]) -> list[int]:
    """Make `trace.json` of the parts, and remove them; returns the ranks whose part is not there.

    Raises:
        InputOutputError: writing failed.
        OSError: a part cannot be read.
    """
    parts = {rank: part_path(folder, nonce, rank) for rank in range(world)}
    missing = [rank for rank, path in parts.items() if not path.is_file()]
    with written_whole(folder / TRACE) as file:
        file.write(b'{"displayTimeUnit": "ms",\n"otherData": ')
        file.write(json.dumps({**about, "missing_ranks": missing}, allow_nan=False).encode())
        file.write(b',\n"traceEvents": [')
        separator = b"\n"
        for rank, path in parts.items():
            if rank not in missing:
                separator = _append(file, path, separator)
        file.write(b"\n]}\n")
    for rank, path in parts.items():
        if rank not in missing:
            path.unlink()
    return missing


def _append(file: BinaryIO, path: Path, separator: bytes) -> bytes:
    """The lines of a part, with commas between them; returns what goes before the next line."""
    with path.open("rb") as part:
        for line in part:
            file.write(separator + line.rstrip(b"\n"))
            separator = b",\n"
    return separator
