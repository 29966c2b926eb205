"""A checkpoint of one plan as the ranks of another would have written it: offline, in one process.

What goes into a file is read from where it is, a block at a time, and written at once: memory does not grow
with the model, and every byte is moved once. A run resumes at any layout without this; it saves ranks that
start from a shared disk the reading of slices of many files.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from moec.runtime.abi.bundle import Bundle
from moec.runtime.errors import InputOutputError, UserError
from moec.runtime.state import make_state

from . import folders
from .compatible import check_compatible
from .describing import Described
from .load import Checkpoint
from .manifest import MODEL
from .slices import Slice, all_slices
from .write import Values, commit, write_model, write_shard


def replan(checkpoint: Checkpoint, bundle: Bundle, root: Path) -> Path:
    """Write the checkpoint for the plan of `bundle` into `root`, and return its folder.

    Files are found undamaged first. Formats of numbers are those of the bundle.

    Raises:
        UserError: the bundle is of another model or order of samples, or `root` has this checkpoint already.
        IntegrityError: the checkpoint is damaged.
        InputOutputError: reading or writing failed.
    """
    manifest = bundle.manifest
    check_compatible(checkpoint.manifest, manifest, None, str(checkpoint.folder))
    checkpoint.verify_share(0, 1)
    if checkpoint.manifest.step in folders.complete_steps(root):
        raise UserError(f"{root} has a checkpoint of step {checkpoint.manifest.step} already")
    saved = checkpoint.manifest
    steps = manifest.training.steps or saved.steps
    described = Described(
        manifest, bundle.source, bundle.digest, max(steps, saved.step), saved.data.fingerprint
    )
    try:
        return _written(checkpoint, described, root)
    except OSError as error:
        raise InputOutputError(f"cannot write to {root}: {error.strerror}") from error


def _written(checkpoint: Checkpoint, described: Described, root: Path) -> Path:
    bundle = described.bundle
    dtypes = make_state(bundle, 0, torch.device("meta")).dtypes
    partial = folders.new_folder(root, checkpoint.manifest.step)
    try:
        entries = {
            name: write_shard(partial / name, [_values(checkpoint, one, dtypes) for one in slices])
            for name, slices in all_slices(bundle.states(), bundle.mesh).items()
        }
        entries[MODEL] = write_model(partial, described.source)
        passed_over = checkpoint.manifest.passed_over(bundle.training.batch_sequences)
        manifest = described.manifest(checkpoint.manifest.step, entries, passed_over)
        return commit(partial, manifest, keep=len(folders.complete_steps(root)) + 1)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _values(checkpoint: Checkpoint, one: Slice, dtypes: Mapping[str, torch.dtype]) -> Values:
    dtype = dtypes[one.part]
    blocks = checkpoint.read(one.part, one.name, one.start, one.count)
    return Values(one, dtype, (block.to(dtype) for block in blocks))
