"""What checkpoints there are, and what is wrong with one: for people and programs, on one process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from moec.runtime.errors import IntegrityError, UserError, message_of
from moec.runtime.record.recorder import CHECKPOINTS

from . import folders
from .load import Checkpoint
from .manifest import NAME, CheckpointManifest


@dataclass(frozen=True)
class Listed:
    """A complete checkpoint: its manifest, or what is wrong with that. Files are not read for it."""

    folder: Path
    step: int
    manifest: CheckpointManifest | None
    problem: str

    @property
    def size_bytes(self) -> int:
        """Of its files, without the manifest; 0 where that cannot be read."""
        return sum(file.size_bytes for file in self.manifest.files.values()) if self.manifest else 0


def checkpoints_of(run: Path) -> Path:
    """The folder of checkpoints of a run; the argument may be that folder itself.

    Raises:
        UserError: there is none.
    """
    for root in (run / CHECKPOINTS, run):
        if root.is_dir() and (root.name == CHECKPOINTS or folders.complete_steps(root)):
            return root
    raise UserError(f"{run} has no checkpoints: there is no folder {run / CHECKPOINTS}")


def listed(root: Path) -> list[Listed]:
    """The complete checkpoints of a folder, oldest first."""
    return [
        _listed(root / folders.folder_name(step), step) for step in reversed(folders.complete_steps(root))
    ]


def checkpoint_at(path: Path) -> Path:
    """The folder of a checkpoint: `path` itself, or the newest of the run that `path` is.

    Raises:
        UserError: it is neither.
    """
    if (path / NAME).exists() or folders.step_of(path.name) is not None:
        return path
    root = checkpoints_of(path)
    steps = folders.complete_steps(root)
    if not steps:
        raise UserError(f"{root} holds no complete checkpoint")
    return root / folders.folder_name(steps[0])


def problems(folder: Path) -> Iterator[str]:
    """Everything that is wrong with a checkpoint: its manifest and coverage first, then file by file."""
    try:
        checkpoint = Checkpoint(folder)
    except IntegrityError as error:
        yield message_of(error)
        return
    for name in checkpoint.files():
        try:
            checkpoint.verify(name)
        except (IntegrityError, UserError) as error:
            yield message_of(error)


def _listed(folder: Path, step: int) -> Listed:
    try:
        return Listed(folder, step, Checkpoint(folder).manifest, "")
    except IntegrityError as error:
        return Listed(folder, step, None, message_of(error))
