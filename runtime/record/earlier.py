"""What an earlier run left in a folder is kept when another run takes the folder.

OUT/previous-20260101T120000/     metrics.jsonl, run_status.json, model.moe, weights, checkpoints, profile,
                                  tensorboard
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime
from itertools import count
from pathlib import Path

from moec.runtime.errors import RuntimeFailure
from moec.runtime.record.names import CHECKPOINTS, METRICS, MODEL, PROFILE, STATUS, TENSORBOARD, WEIGHTS
from moec.runtime.record.status import read_status, utc_now
from moec.runtime.weights.writer import check_replaceable

_RECORD = (METRICS, MODEL, WEIGHTS, CHECKPOINTS, PROFILE, TENSORBOARD, STATUS)


def set_aside(out: Path) -> Path | None:
    """Move the record of an earlier run in `out` into a folder of its own there, and return that folder.

    A record without a step and without weights is nothing to keep: it stays, to be overwritten, and None is
    returned, as where there is none.

    Raises:
        UserError: `weights` holds something else than weights.
        OSError: it cannot be moved.
    """
    if not out.is_dir():
        return None
    check_replaceable(out / WEIGHTS)
    if not _worth_keeping(out):
        return None
    aside = _new_folder(out, _started(out))
    for name in _RECORD:  # the verdict last: a folder with one is whole
        if os.path.lexists(out / name):
            (out / name).rename(aside / name)
    return aside


def _worth_keeping(out: Path) -> bool:
    metrics, folders = out / METRICS, (out / WEIGHTS, out / CHECKPOINTS)
    return (metrics.is_file() and metrics.stat().st_size > 0) or any(
        folder.is_dir() and any(folder.iterdir()) for folder in folders
    )


def _started(out: Path) -> str:
    """When the earlier run started, or now where it does not say; without what some file systems refuse."""
    try:
        started = datetime.fromisoformat(read_status(out / STATUS).started)
    except (RuntimeFailure, ValueError):
        started = utc_now()
    return started.strftime("%Y%m%dT%H%M%S")


def _new_folder(out: Path, started: str) -> Path:
    for path in _names(out, started):
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path
    raise AssertionError


def _names(out: Path, started: str) -> Iterator[Path]:
    yield out / f"previous-{started}"
    for number in count(2):
        yield out / f"previous-{started}-{number}"
