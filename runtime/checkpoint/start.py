"""Where a run starts: from a checkpoint, or afresh."""

from __future__ import annotations

from pathlib import Path

from moec.runtime.abi.bundle import Manifest
from moec.runtime.initialise import check_initialised
from moec.runtime.state import TrainState
from moec.runtime.transport.api import Transport

from .compatible import check_compatible
from .load import Checkpoint, load_state
from .resume import clear_unfinished, find, has_checkpoints, say


def wants_resume(root: Path, transport: Transport, *, resume: bool) -> bool:
    """Whether there is something to resume, if that is wanted; a run that finds nothing starts afresh."""
    if not resume:
        return False
    found = has_checkpoints(root, transport)
    if not found and transport.rank == 0:
        say(f"there is no checkpoint in {root}: the run starts from its first step")
    return found


def resumed(
    root: Path, state: TrainState, bundle: Manifest, data: str, transport: Transport, *, strict: bool
) -> Checkpoint:
    """Load the newest whole checkpoint into the state of every rank.

    Raises:
        IntegrityError: see `find`.
        InitialisationError: elements of a parameter were not read, or twice.
        UserError: it is of another model, or of other data; see `check_compatible`.
        InputOutputError: reading failed.
    """
    clear_unfinished(root, transport)
    checkpoint = find(root, transport, strict=strict)
    notes = check_compatible(checkpoint.manifest, bundle, data, str(checkpoint.folder))
    load_state(state, checkpoint)
    check_initialised(state, transport)
    state.passed_over = checkpoint.manifest.passed_over(bundle.training.batch_sequences)
    if transport.rank == 0:
        for note in notes:
            say(f"warning: {note}")
        say(f"the run goes on from step {checkpoint.manifest.step}, from {checkpoint.folder}")
    transport.exchange(b"")
    return checkpoint
