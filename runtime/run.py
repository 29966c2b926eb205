"""`moec run`, one rank of it: open bundle, data and weights, train, keep record, write the weights.

Whatever can be refused is refused before the first step, on all ranks together. Rank 0 keeps the record.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from moec.runtime.abi.buffers import Slot
from moec.runtime.abi.bundle import Manifest
from moec.runtime.data.files import written_whole
from moec.runtime.data.loader import Loader
from moec.runtime.data.source import open_stream
from moec.runtime.data.stream import TokenStream, fingerprint
from moec.runtime.data.tokenizer import open_tokenizer
from moec.runtime.errors import ExitCode, UserError
from moec.runtime.guard import describe, exit_code_of
from moec.runtime.job import Job, agree, default_transport, open_job
from moec.runtime.record.metrics import StepMetrics
from moec.runtime.record.recorder import STATUS, NoRecord, Recorder, RunRecord
from moec.runtime.record.status import mark_failed
from moec.runtime.state import TrainState, make_state, parameter_prefix
from moec.runtime.training import StepResult, Trainer
from moec.runtime.transport.factory import make_transport
from moec.runtime.weights.huggingface import HuggingFaceReader
from moec.runtime.weights.load import load_shards
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.save import save_weights
from moec.runtime.weights.stored import StoredTensors
from moec.runtime.weights.writer import check_replaceable

WEIGHTS = "weights"
MODEL = "model.moe"


@dataclass(frozen=True)
class RunOptions:
    """What the user gave. `steps` stops early; `init` is a weights directory, or `hf:` and a checkpoint's."""

    bundle: Path
    data: str
    out: Path
    steps: int | None = None
    init: str | None = None
    tokenizer: str | None = None
    transport: str | None = None
    timeout_s: float = 600.0


def run_training(options: RunOptions) -> int:
    """Train, as one rank of the job that this process belongs to. What it raises has an exit code."""
    transport = make_transport(options.transport or default_transport(), timeout_s=options.timeout_s)
    job = open_job(options.bundle, transport)
    manifest = job.bundle.manifest
    stream = open_stream(options.data, open_tokenizer(options.tokenizer), manifest.vocab)
    agree({"data": fingerprint(stream)}, transport)
    with _loader(stream, manifest, transport.rank) as loader:
        total = _total_steps(manifest, loader)
        steps = _steps_to_do(options.steps, total)
        state = make_state(manifest, transport.rank, transport.device)
        _initialise(state, job, options.init)
        with _recorder(job, options.out, steps) as recorder:
            trainer = Trainer(job, state, loader, total)
            try:
                _train(trainer, steps, recorder)
                weights = options.out / WEIGHTS
                save_weights(weights, state.buffers, state.parameters, state.mesh, job.groups, transport.rank)
            except BaseException as error:
                _mark_failed(options.out / STATUS, error, trainer.last)
                raise
            recorder.complete({"weights": weights})
    transport.close()
    return ExitCode.DONE


def _loader(stream: TokenStream, manifest: Manifest, rank: int) -> Loader:
    training = manifest.training
    return Loader(
        stream,
        sequence=training.sequence,
        batch_sequences=training.batch_sequences,
        micro_batches=training.micro_batches,
        data_ranks=manifest.world,
        data_rank=rank,
        seed=training.seed,
        epochs=training.epochs,
    )


def _total_steps(manifest: Manifest, loader: Loader) -> int:
    """The steps of the whole run, which the schedule spans: given, or those of the epochs of this data."""
    steps = manifest.training.steps if manifest.training.steps is not None else loader.steps
    assert steps is not None
    return steps


def _steps_to_do(wanted: int | None, total: int) -> int:
    """`--steps` ends a run early; what is beyond its end has no learning rate."""
    if wanted is not None and wanted > total:
        raise UserError(
            f"--steps {wanted}: the run has {total} steps; compile it with more, --set train.steps={wanted}"
        )
    return wanted or total


def _initialise(state: TrainState, job: Job, init: str | None) -> None:
    """Draw the parameters, or read them."""
    manifest = job.bundle.manifest
    if init is None:
        state.draw(manifest.training.seed, manifest.init_std)
        return
    reader = _open_weights(init, job)
    reader.check_against(parameter_shapes(manifest), state.dtype)
    for name, shard in state.parameters.items():
        load_shards(reader, state.pieces(name), shard)


def _open_weights(init: str, job: Job) -> StoredTensors:
    if not init.startswith("hf:"):
        folder = Path(init)
        if (folder / "config.json").is_file():
            raise UserError(f"--init {init} is a published checkpoint: name it hf:{init}")
        return WeightsReader(folder / WEIGHTS if (folder / WEIGHTS).is_dir() else folder)
    names = job.bundle.checkpoint
    if not names.tensors:
        raise UserError(
            f"--init {init}: the model has no `checkpoint huggingface` block that names the tensors"
        )
    return HuggingFaceReader(Path(init.removeprefix("hf:")), names.tensors, names.ignored)


def parameter_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """Every parameter of the model by its full name."""
    return {
        name: slot.shape
        for state, buffer in manifest.states().items()
        for slot in buffer.slots
        for name in _names(slot, parameter_prefix(state))
    }


def _names(slot: Slot, prefix: str) -> list[str]:
    paths = [slot.path] if slot.experts is None else [slot.path.format(e) for e in range(slot.experts)]
    return [f"{prefix}.{path}" if prefix else path for path in paths]


def _recorder(job: Job, out: Path, steps: int) -> Recorder:
    """The record, on rank 0, with the model's text beside it: the folder is all that `moec logits` needs."""
    if job.transport.rank:
        return NoRecord()
    out.mkdir(parents=True, exist_ok=True)
    check_replaceable(out / WEIGHTS)
    with written_whole(out / MODEL) as file:
        file.write(job.bundle.source.encode())
    return RunRecord(out, steps=steps, world=job.transport.world, bundle=job.bundle.digest)


def _train(trainer: Trainer, steps: int, recorder: Recorder) -> None:
    for step in range(steps):
        recorder.step(_metrics(trainer.step(step)))


def _mark_failed(status: Path, error: BaseException, last: StepResult | None) -> None:
    done, loss = (last.step + 1, last.losses["loss"]) if last is not None else (0, None)
    mark_failed(status, exit_code_of(error), describe(error), done, loss)


def _metrics(result: StepResult) -> StepMetrics:
    return StepMetrics(
        step=result.step,
        loss=result.losses["loss"],
        aux_loss=result.losses.get("aux_loss", 0.0),
        z_loss=result.losses.get("z_loss"),
        grad_norm=result.grad_norm,
        lr=result.lr,
        tokens=result.tokens,
        tokens_per_s=result.tokens / result.step_s,
        step_s=result.step_s,
        expert_load=result.load,
    )
