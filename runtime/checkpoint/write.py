"""Writing a checkpoint: what a rank writes, and what rank 0 does when all have written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from moec.runtime.data.files import flush_directory
from moec.runtime.errors import InternalError
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


@dataclass(frozen=True)
class Values:
    """What a slice holds: blocks on the CPU, of one dtype, one after another."""

    slice: Slice
    dtype: torch.dtype
    blocks: Iterable[Tensor]


def write_shard(
    path: Path, values: Sequence[Values], is_wanted: Callable[[], bool] = lambda: True
) -> FileEntry:
    """Write a file of slices; it is on disk when this returns.

    Raises:
        OSError: writing failed.
        InternalError: blocks that do not make up their slice.
        Abandoned: `is_wanted` says no.
    """
    with path.open("xb") as file:
        out = Digested(file)
        out.write(memoryview(header_of_each({str(v.slice): (v.dtype, (v.slice.count,)) for v in values})))
        for one in values:
            missing_bytes = one.slice.count * one.dtype.itemsize
            for block in one.blocks:
                missing_bytes -= _write_block(out, block, is_wanted)
            if missing_bytes:
                raise InternalError(f"{missing_bytes} bytes of {one.slice} are missing")
        flush_file(file)
    return out.entry()


def _write_block(out: Digested, block: Tensor, is_wanted: Callable[[], bool]) -> int:
    """And how many bytes it has."""
    content = bytes_of(block)
    for begin in range(0, len(content), BLOCK_BYTES):
        fault_point("checkpoint.write")
        if not is_wanted():
            raise Abandoned
        out.write(content[begin : begin + BLOCK_BYTES])
    return len(content)


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


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        flush_file(file)
