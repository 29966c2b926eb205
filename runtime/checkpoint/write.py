"""Writing a checkpoint: what a rank writes, and what rank 0 does when all have written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from moec.runtime.data.files import flush_directory
from moec.runtime.faults import fault_point
from moec.runtime.weights.digested import Digested, bytes_of, flush_file
from moec.runtime.weights.index import FileEntry
from moec.runtime.weights.tensor_file import header_of_each

from . import folders
from .manifest import MODEL, NAME, CheckpointManifest, manifest_text
from .slices import Slice

BLOCK_BYTES = 16 << 20
"""Written at a time: a write that is not wanted any more ends within so many bytes."""


class Abandoned(Exception):  # noqa: N818 (nothing went wrong)
    """The run ends, and nobody waits for what is being written."""


def write_shard(
    path: Path, values: Sequence[tuple[Slice, Tensor]], is_wanted: Callable[[], bool] = lambda: True
) -> FileEntry:
    """Write a file of slices, each (count,) on the CPU; it is on disk when this returns.

    Raises:
        OSError: writing failed.
        Abandoned: `is_wanted` says no.
    """
    with path.open("xb") as file:
        out = Digested(file)
        out.write(memoryview(header_of_each({str(s): (values.dtype, (s.count,)) for s, values in values})))
        for _, tensor in values:
            content = bytes_of(tensor)
            for begin in range(0, len(content), BLOCK_BYTES):
                fault_point("checkpoint.write")
                if not is_wanted():
                    raise Abandoned
                out.write(content[begin : begin + BLOCK_BYTES])
        flush_file(file)
    return out.entry()


def write_model(folder: Path, source: str) -> FileEntry:
    """Write the text of the model into the checkpoint. Raises OSError."""
    content = source.encode()
    _write(folder / MODEL, content)
    return FileEntry(len(content), hashlib.sha256(content).hexdigest())


def commit(partial: Path, manifest: CheckpointManifest, keep: int) -> Path:
    """All files are on disk: write the manifest, give the folder its name, and let go of older checkpoints.

    What ends here at whatever point leaves either this checkpoint complete, or the one before it.

    Raises:
        OSError, InputOutputError: writing failed.
        CoverageError: the slices do not hold every element once.
    """
    manifest.check(str(partial))
    fault_point("checkpoint.before_manifest")
    _write(partial / NAME, manifest_text(manifest))
    flush_directory(partial)
    fault_point("checkpoint.before_rename")
    path = folders.complete(partial)
    fault_point("checkpoint.before_latest")
    folders.write_latest(path.parent, manifest.step)
    fault_point("checkpoint.before_prune")
    prune(path.parent, keep)
    return path


def prune(root: Path, keep: int) -> None:
    """Delete all complete checkpoints but the newest `keep`. Raises OSError."""
    for step in folders.complete_steps(root)[keep:]:
        folders.remove(root / folders.folder_name(step))


def stored_sizes(entries: Mapping[str, FileEntry]) -> dict[str, list[object]]:
    """Names, sizes and digests, to be told to rank 0."""
    return {name: [entry.size_bytes, entry.sha256] for name, entry in entries.items()}


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        flush_file(file)
