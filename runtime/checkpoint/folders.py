"""The folders of checkpoints, by name.

    OUT/checkpoints/step-00000042/                manifest.json, model.moe, PART-RANK.safetensors; complete
    OUT/checkpoints/step-00000050.tmp-1f0c9a3e/   being written or deleted, or left so by a killed run
    OUT/checkpoints/step-00000046.damaged-77ab01c2/   found damaged, and passed over, by a run that resumed
    OUT/checkpoints/latest                        the name of the newest, for people and scripts

The number counts the steps that are done. A folder takes its final name by one rename, when all of it is on
disk, and is never written to again.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from pathlib import Path

from moec.runtime.data.files import flush_directory, written_whole

LATEST = "latest"

_DONE = re.compile(r"step-([0-9]{8,13})")
_UNFINISHED = re.compile(r"step-[0-9]{8,13}\.tmp-[0-9a-f]{8}")


def folder_name(step: int) -> str:
    """`step-00000042`."""
    return f"step-{step:08}"


def step_of(name: str) -> int | None:
    """The step of a complete checkpoint's folder; None for any other name."""
    match = _DONE.fullmatch(name)
    if match is None or folder_name(int(match[1])) != name:
        return None
    return int(match[1])


def complete_steps(root: Path) -> list[int]:
    """The steps of all complete checkpoints, newest first."""
    steps = [step_of(name) for name in _names(root)]
    return sorted((step for step in steps if step is not None), reverse=True)


def unfinished(root: Path) -> list[Path]:
    """What runs that were killed have left half-written."""
    return [root / name for name in _names(root) if _UNFINISHED.fullmatch(name)]


def new_folder(root: Path, step: int) -> Path:
    """Make the folder that the checkpoint of `step` is written into. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    path = root / f"{folder_name(step)}.tmp-{secrets.token_hex(4)}"
    path.mkdir()
    return path


def complete(partial: Path) -> Path:
    """Give a folder its final name, when all of it is on disk. Raises OSError, also if one is there."""
    path = partial.with_name(partial.name.partition(".")[0])
    if os.path.lexists(path):
        raise FileExistsError(17, "a checkpoint is there already", str(path))
    partial.rename(path)
    flush_directory(path.parent)
    return path


def pass_over(path: Path, word: str) -> Path:
    """Rename a checkpoint so that it is none any more: `step-00000046.damaged-77ab01c2`. Raises OSError."""
    aside = path.with_name(f"{path.name}.{word}-{secrets.token_hex(4)}")
    path.rename(aside)
    flush_directory(path.parent)
    return aside


def write_latest(root: Path, step: int) -> None:
    """Name the newest checkpoint, atomically. Raises InputOutputError."""
    with written_whole(root / LATEST) as file:
        file.write(f"{folder_name(step)}\n".encode())


def remove(path: Path) -> None:
    """Delete a folder. Half deleted, it is called as one half written, and goes with the next start."""
    if step_of(path.name) is not None:
        path = path.rename(path.with_name(f"{path.name}.tmp-{secrets.token_hex(4)}"))
    shutil.rmtree(path)


def _names(root: Path) -> list[str]:
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False))
