"""The first values of a run: drawn, or read from weights that all ranks see, or that rank 0 alone sees."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .abi.manifest import Manifest
from .errors import UserError
from .job import Job, agree
from .record.recorder import WEIGHTS
from .state import TrainState, parameter_prefix
from .transport.api import Transport
from .weights.huggingface import HuggingFaceReader
from .weights.load import load_shards
from .weights.reader import WeightsReader
from .weights.spread import spread
from .weights.stored import StoredTensors
from .written import check_written

InitFrom = Literal["all", "rank0"]
"""Who reads `--init`: every rank its own elements, or rank 0, which sends them to the others."""


def initialise(state: TrainState, job: Job, init: str | None, source: InitFrom = "all") -> None:
    """Draw the parameters, or read them: on all ranks the same. Every element is seen to have been written.

    Raises:
        UserError: `init` holds no weights, or none of this model.
        IntegrityError: they are damaged.
        InitialisationError: elements were left out, or written twice.
    """
    agree({"--init": "none" if init is None else "given", "--init-from": source}, job.transport)
    if init is None:
        state.draw(job.bundle.manifest.training.seed, job.bundle.manifest.init_std)
    elif source == "rank0":
        _read_by_one(state, job, init)
    else:
        _read_by_all(state, job, init)
    check_initialised(state, job.transport)


def check_initialised(state: TrainState, transport: Transport) -> None:
    """See `check_written`; what was noted for it is let go."""
    prefixes = {name: parameter_prefix(name) for name in state.buffers}
    check_written(state.written, state.buffers, state.mesh, transport, prefixes)
    state.written.clear()


def _read_by_all(state: TrainState, job: Job, init: str) -> None:
    """Each rank verifies its share of the files, and reads its elements."""
    transport = job.transport
    _check_visible(init, transport)
    reader = _checked(init, job, state)
    reader.verify_share(transport.rank, transport.world)
    agree({"init": reader.fingerprint()}, transport)
    for name, shard in state.parameters.items():
        load_shards(reader, state.pieces(name), shard, wrote=state.notes_of(name))


def _read_by_one(state: TrainState, job: Job, init: str) -> None:
    """Rank 0 verifies all files; the others look at nothing."""
    reader = None
    if job.transport.rank == 0:
        reader = _checked(init, job, state)
        reader.verify_share(0, 1)
    job.transport.exchange(b"")  # what is wrong is found before anything is sent
    spread(reader, state, job.groups["data"], job.transport.device)


def _check_visible(init: str, transport: Transport) -> None:
    """A folder that rank 0 has and another has not is most likely on the disk of one node."""
    here = Path(init.removeprefix("hf:")).is_dir()
    answers = transport.exchange(b"1" if here else b"0")
    missing = [str(rank) for rank, answer in enumerate(answers) if answer == b"0"]
    if missing and answers[0] == b"1":
        ranks = f"rank{'s' * (len(missing) > 1)} {', '.join(missing[:8])}{', ...' * (len(missing) > 8)}"
        raise UserError(f"--init {init}: rank 0 has this folder, {ranks} not: give --init-from rank0")


def _checked(init: str, job: Job, state: TrainState) -> StoredTensors:
    """The weights, found to be those of this model."""
    reader = _open_weights(init, job)
    reader.check_against(parameter_shapes(job.bundle.manifest), state.dtype)
    return reader


def _open_weights(init: str, job: Job) -> StoredTensors:
    if not init.startswith("hf:"):
        folder = Path(init)
        if (folder / "config.json").is_file():
            raise UserError(f"--init {init} is a published checkpoint: name it hf:{init}")
        return WeightsReader(folder / WEIGHTS if (folder / WEIGHTS).is_dir() else folder)
    names = job.bundle.checkpoint
    if names.is_empty:
        raise UserError(
            f"--init {init}: the model has no `checkpoint huggingface` block that names the tensors"
        )
    return HuggingFaceReader(Path(init.removeprefix("hf:")), names, parameter_shapes(job.bundle.manifest))


def parameter_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Every parameter of the model by its full name."""
    return {
        name: slot.shape
        for state, buffer in manifest.states().items()
        for slot in buffer.slots
        for name in slot.names(parameter_prefix(state))
    }
