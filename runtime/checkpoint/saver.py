"""Saving while the run goes on: a companion of the loop.

The state is copied on the training thread and written by a thread of its own. Collectives stay on the
training thread: at the boundaries of later steps the ranks tell each other how far they are, and when all
have written, rank 0's thread commits. One checkpoint is on its way at a time; the next waits. What goes
wrong is raised at such a boundary, on all ranks together, and the checkpoints that were there stay.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moec.runtime.errors import ExitCode, RuntimeFailure
from moec.runtime.guard import describe, exit_code_of
from moec.runtime.loop import Companion, Wish
from moec.runtime.state import TrainState
from moec.runtime.training import StepResult
from moec.runtime.transport.api import Transport
from moec.runtime.weights.index import FileEntry

from . import folders
from .describing import Described
from .manifest import MODEL
from .slices import slices_of, writers
from .snapshot import Snapshot
from .start import resumed
from .write import commit, write_model, write_shard

PENDING, DONE = b".", b"+"


class CheckpointError(RuntimeFailure):
    """A checkpoint could not be written; those before it are as they were."""

    exit_code = ExitCode.INPUT_OUTPUT


@dataclass
class _Flight:
    """A checkpoint on its way: its folder, what this rank's thread does, and whether rank 0 commits."""

    step: int
    folder: Path
    work: Future[Any]
    passed_over: int
    committing: bool = False


KEPT = 3
"""Checkpoints that are kept of a run which saves only where it is stopped."""


class Checkpointer(Companion):
    """Saves the state as `train.checkpoint` says, at the end, and where a run is wished to stop.

    With `none`, only where it is wished to stop. `waits` is called before a wait for a disk, which may take
    longer than a step may.
    """

    def __init__(
        self,
        described: Described,
        state: TrainState,
        transport: Transport,
        root: Path,
        waits: Callable[[], None] = lambda: None,
    ) -> None:
        self._stall_s, self._waits = 0.0, waits
        self._described, self._state = described, state
        self._transport, self._root = transport, root
        saving = described.bundle.training.checkpoint
        self._every: int | None = saving.every if saving else None
        self._keep = saving.keep if saving else KEPT
        self._files = slices_of(transport.rank, state.buffers, state.mesh, writers(state.buffers, state.mesh))
        self._snapshot = Snapshot(state, self._files)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="moec-checkpoint")
        self._flight: _Flight | None = None
        self._closed = False
        self.done: int | None = None  # steps that the state has seen, of which it knows
        self._saved: int | None = None
        self._due = self._rewound = False

    def resume(self, *, strict: bool = False) -> None:
        """Load the newest whole checkpoint; called on all ranks, before the first step.

        Raises as `resumed` does.
        """
        described = self._described
        checkpoint = resumed(
            self._root, self._state, described.bundle, described.data, self._transport, strict=strict
        )
        self.done = self._saved = checkpoint.manifest.step

    def rewind(self) -> int:
        """Load the newest whole checkpoint again, in the middle of a run; called on all ranks.

        Returns its step, which is the next to do. What was to be saved is bad, and is not.

        Raises:
            IntegrityError: there is none, or none is whole.
            CheckpointError: the one on its way cannot be written.
        """
        self.drain()
        self.resume()
        self._rewound, self._due = True, False
        assert self.done is not None
        return self.done

    @property
    def is_writing(self) -> bool:
        """Whether a checkpoint is on its way."""
        return self._flight is not None

    def take_stall_s(self) -> float | None:
        """For how long the training thread was held up since this was asked last; None if it was not."""
        found, self._stall_s = self._stall_s, 0.0
        return found or None

    def before_step(self, step: int) -> None:
        """See `Companion`."""
        self._rewound = False

    def after_step(self, result: StepResult) -> Wish | None:
        """See `Companion`. A state that has been rewound in this step is not saved."""
        if not self._rewound:
            self.done = result.step + 1
            self._due = self._due or bool(self._every and self.done % self._every == 0)
        if self._flight is None and not self._due:
            return None
        began_s = time.perf_counter()
        self._poll(wait=False)
        if self._due and self.done is not None:
            self.save(self.done)
        self._stall_s += time.perf_counter() - began_s
        return None

    def finish(self, wish: Wish | None) -> None:
        """The last state is saved, if states are at all, and when this returns it is on disk."""
        if (self._every or wish) and self.done is not None and self.done != self._saved:
            self.save(self.done)
        self.drain()

    def close(self) -> None:
        """See `Companion`: what is half-written stays so, and is removed by the next run."""
        self._closed = True
        self._thread.shutdown(wait=True, cancel_futures=True)

    def save(self, step: int) -> None:
        """Copy the state, which has seen `step` steps, and start to write it; called on all ranks.

        Raises:
            CheckpointError: this one, or the one before it, cannot be written.
        """
        self.drain()
        folder = self._begin(step)
        self._snapshot.take()
        work = self._thread.submit(self._write, folder)
        self._flight = _Flight(step, folder, work, self._state.passed_over)
        self._saved, self._due = step, False

    def drain(self) -> None:
        """Wait until nothing is on its way; called on all ranks. Raises CheckpointError."""
        while self._flight is not None:
            self._poll(wait=True)

    def _begin(self, step: int) -> Path:
        """The folder, made by rank 0, on all ranks."""
        answer: dict[str, Any] = {}
        if self._transport.rank == 0:
            try:
                answer = {"name": folders.new_folder(self._root, step).name}
            except OSError as error:
                answer = _failure(error)
        answer = json.loads(self._transport.exchange(json.dumps(answer).encode())[0])
        if "failed" in answer:
            raise _error(step, {0: answer})
        return self._root / str(answer["name"])

    def _write(self, folder: Path) -> dict[str, FileEntry]:
        """On this rank's own thread."""
        entries = {
            name: write_shard(folder / name, self._snapshot.values(name), lambda: not self._closed)
            for name in self._files
        }
        if self._transport.rank == 0:
            entries[MODEL] = write_model(folder, self._described.source)
        return entries

    def _poll(self, *, wait: bool) -> None:
        """Go on with what is on its way, as far as all ranks have come."""
        flight = self._flight
        if flight is None:
            return
        if wait and not flight.work.done():
            self._waits()
            flight.work.exception()
        words = self._transport.exchange(_word(flight.work))
        if PENDING in words:
            return
        failed = {rank: json.loads(word) for rank, word in enumerate(words) if word != DONE}
        if failed:
            self._flight = self._saved = None
            if self._transport.rank == 0:
                shutil.rmtree(flight.folder, ignore_errors=True)
            raise _error(flight.step, failed)
        if flight.committing:
            self._flight = None
        else:
            self._commit(flight)

    def _commit(self, flight: _Flight) -> None:
        """All have written. Rank 0 hears what, and its thread does the rest."""
        mine = {name: [e.size_bytes, e.sha256] for name, e in flight.work.result().items()}
        answers = self._transport.exchange(json.dumps(mine).encode())
        flight.committing = True
        if self._transport.rank:
            return
        entries = {
            name: FileEntry(*entry) for answer in answers for name, entry in json.loads(answer).items()
        }
        manifest = self._described.manifest(flight.step, entries, flight.passed_over)
        flight.work = self._thread.submit(commit, flight.folder, manifest, self._keep)


def _word(work: Future[Any]) -> bytes:
    """How far this rank's thread is, for the others."""
    if not work.done():
        return PENDING
    error = work.exception()
    return DONE if error is None else json.dumps(_failure(error)).encode()


def _failure(error: BaseException) -> dict[str, Any]:
    return {"failed": describe(error), "code": int(exit_code_of(error))}


def _error(step: int, failed: dict[int, dict[str, Any]]) -> CheckpointError:
    """The same on all ranks."""
    rank, first = next(iter(failed.items()))
    others = f", as on {len(failed) - 1} more" if len(failed) > 1 else ""
    error = CheckpointError(
        f"the checkpoint of step {step} could not be written on rank {rank}{others}: {first['failed']}",
        operation="checkpoint",
    )
    error.exit_code = ExitCode(int(first["code"]))
    return error
