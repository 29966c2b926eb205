"""`moec run`, one rank of it: open bundle, data and weights, train, keep record, write the weights.

Whatever can be refused is refused before the first step, on all ranks together. Rank 0 keeps the record, and
makes no folder for a run that is refused. Where an earlier run's record is, that is moved aside first: no
verdict but this run's can be mistaken for it.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from moec.runtime.abi.bundle import Manifest, read_manifest
from moec.runtime.checkpoint.describing import Described
from moec.runtime.checkpoint.saver import Checkpointer
from moec.runtime.checkpoint.start import wants_resume
from moec.runtime.data.files import written_whole
from moec.runtime.data.loader import Loader
from moec.runtime.data.source import check_data
from moec.runtime.elastic import Replan, check_elastic, outlive
from moec.runtime.errors import ExitCode
from moec.runtime.fault_kinds import Faults, injected
from moec.runtime.feeding import DataOptions, make_loader, open_data
from moec.runtime.guard import describe, exit_code_of
from moec.runtime.initialise import InitFrom, initialise
from moec.runtime.job import Job, default_transport, open_job
from moec.runtime.launch import discover
from moec.runtime.loop import Companion, Wish, train
from moec.runtime.measure import Measure
from moec.runtime.nonfinite import trace
from moec.runtime.numerics import Numerics
from moec.runtime.observe_options import Observing
from moec.runtime.observing import check_profiled, measure_of, open_trackers, profilers
from moec.runtime.record.claim import Claim, OccupiedError
from moec.runtime.record.earlier import set_aside
from moec.runtime.record.recorder import CHECKPOINTS, MODEL, STATUS, WEIGHTS, NoRecord, Recorder, RunRecord
from moec.runtime.record.status import StatusFile, mark_failed
from moec.runtime.schedule import steps_to_do
from moec.runtime.state import TrainState, make_state
from moec.runtime.training import StepResult, Trainer
from moec.runtime.transport.api import Transport
from moec.runtime.transport.factory import make_transport
from moec.runtime.validate import ValidationOptions, Validator, check_validation
from moec.runtime.watchdog.limits import Limits
from moec.runtime.watchdog.session import Watch, say
from moec.runtime.weights.save import save_weights


@dataclass(frozen=True)
class RunOptions:
    """What the user gave. `steps` stops early; `init` is a weights directory, or `hf:` and a checkpoint's.

    `end_of_document` is the tokenizer's token between documents, where it cannot be told from the file.
    `resume` goes on from the newest whole checkpoint in `out`, if there is any; with `strict_resume`, the
    newest must be whole. `elastic`: a lost rank is not the end.
    """

    bundle: Path
    data: tuple[str, ...]
    out: Path
    steps: int | None = None
    init: str | None = None
    tokenizer: str | None = None
    transport: str | None = None
    end_of_document: str | None = None
    limits: Limits = field(default_factory=Limits)
    inject_faults: bool = False
    resume: bool = False
    strict_resume: bool = False
    init_from: InitFrom = "all"
    validation: tuple[str, ...] = ()
    observing: Observing = field(default_factory=Observing)
    elastic: bool = False

    @property
    def of_validation(self) -> ValidationOptions:
        """What of it is about held-out data."""
        return ValidationOptions(self.validation, self.tokenizer, self.end_of_document)


def run_training(options: RunOptions, replan: Replan | None = None) -> int:
    """Train, as one rank of the job that this process belongs to. What it raises has an exit code.

    With `replan`, which makes a bundle for another number of ranks, the run goes on without ranks that are
    lost.
    """
    faults = injected(options.inject_faults, discover().rank)
    timeout_s = 2 * options.limits.longest_s + 60  # the watchdog comes first
    transport = make_transport(options.transport or default_transport(), timeout_s=timeout_s)
    _check_paths(options)
    if replan is None:
        return _run(options, transport, faults)
    check_elastic(transport)

    def attempt(bundle: Path, resume: bool, joined: Transport) -> int:
        changed = replace(options, bundle=bundle, resume=resume or options.resume, elastic=True)
        return _run(changed, joined, faults)

    with _Verdict(options.out / STATUS, is_of_earlier=False):
        return outlive(attempt, options.bundle, transport, replan, options.limits.longest_s)


def _run(options: RunOptions, transport: Transport, faults: Faults | None) -> int:
    """The whole run, by the ranks of `transport`, in a folder that no other run is at work in."""
    with Claim(options.out) as claim:
        _take(claim, transport)
        return _run_in(claim, options, transport, faults)


def _take(claim: Claim, transport: Transport) -> None:
    """On rank 0. Raises OccupiedError, on all ranks."""
    answer = b""
    if transport.rank == 0:
        try:
            claim.take()
        except OccupiedError as error:
            answer = str(error).encode()
    if refused := transport.exchange(answer)[0]:
        raise OccupiedError(refused.decode())


def _run_in(claim: Claim, options: RunOptions, transport: Transport, faults: Faults | None) -> int:
    root = options.out / CHECKPOINTS
    resume = wants_resume(root, transport, resume=options.resume)
    init = options.init if resume else _make_room(options, transport)
    status, elastic = options.out / STATUS, options.elastic
    with (
        _Verdict(status, resume, outlives=elastic) as verdict,
        Watch(transport, options.out, status, options.limits, outlives=elastic) as watch,
    ):
        job = open_job(options.bundle, transport)
        watch.watch(job.executor)
        manifest = job.bundle.manifest
        check_validation(manifest, options.validation)
        data = open_data(DataOptions(options.data, options.tokenizer, options.end_of_document), job)
        with make_loader(data, manifest, transport.rank, epochs=manifest.training.epochs) as loader:
            total = _total_steps(manifest, loader)
            steps = steps_to_do(options.steps, total)
            check_profiled(options.observing, steps)
            measure = measure_of(options.observing, job)
            state = make_state(manifest, transport.rank, transport.device)
            watch.holds(state.bytes_by_part())
            described = Described(manifest, job.bundle.source, job.bundle.digest, total, data.identity)
            saver = Checkpointer(described, state, transport, root, watch.saving)
            if resume:
                saver.resume(strict=options.strict_resume)
            else:
                initialise(state, job, init, options.init_from)
            verdict.trainer = trainer = Trainer(job, state, loader, total)
            validator = Validator(job, state, options.of_validation, steps)
            with _recorder(job, state, options, claim, steps, saver.done) as recorder:
                verdict.is_of_earlier = False
                watch.join()
                companions = (
                    *profilers(options.observing, job, options.out),
                    *_companions(trainer, saver, recorder, watch, faults),
                    validator,
                )
                wish = _train(trainer, steps, recorder, saver, companions, measure, validator)
                watch.saving()
                code = _finish(job, state, recorder, options.out, wish)
    transport.close()
    return code


def _finish(job: Job, state: TrainState, recorder: Recorder, out: Path, wish: Wish | None) -> ExitCode:
    """The weights of a run that is done; one that stops early has saved its state, and time may be short."""
    if wish is not None:
        recorder.stopped(wish.reason)
        return ExitCode.STOPPED_EARLY
    weights = out / WEIGHTS
    save_weights(weights, state.buffers, state.parameters, state.mesh, job.groups, job.transport)
    recorder.complete({"weights": weights})
    return ExitCode.DONE


def _check_paths(options: RunOptions) -> None:
    """A bundle or data that are not there are a slip in the command, and no run: nothing is touched."""
    read_manifest(options.bundle)
    check_data(options.data, options.validation)


def _make_room(options: RunOptions, transport: Transport) -> str | None:
    """Where an earlier run has left a verdict, move it aside, so that none but this run's is found there.

    Returns `--init`, which may be that run, as it is to be opened now.
    """
    aside = b""
    if transport.rank == 0 and (options.out / STATUS).is_file():
        aside = os.fsencode(_set_aside(options.out) or "")
        StatusFile(options.out / STATUS, steps=0, world=transport.world, bundle="")
    found = os.fsdecode(transport.exchange(aside)[0])
    return _moved(options.init, options.out, Path(found)) if options.init and found else options.init


def _set_aside(out: Path) -> Path | None:
    aside = set_aside(out)
    if aside is not None:
        print(f"the earlier run in {out} is now in {aside}", file=sys.stderr)
    return aside


def _moved(init: str, out: Path, aside: Path) -> str:
    """A folder that was `out`, or its weights, is below `aside` now."""
    path = Path(init)
    if path.resolve() == out.resolve():
        return str(aside)
    if path.name == WEIGHTS and path.parent.resolve() == out.resolve():
        return str(aside / WEIGHTS)
    return init


class _Verdict:
    """A context that gives a run that fails its verdict, from whichever rank and however far it has come.

    `is_of_earlier`: what is there is the verdict of the run that this one goes on from. It is replaced, but
    not because of a slip in the command. `outlives`: that a rank is lost is no verdict.
    """

    def __init__(self, status: Path, is_of_earlier: bool, *, outlives: bool = False) -> None:
        self.trainer: Trainer | None = None
        self.is_of_earlier = is_of_earlier
        self._status, self._outlives = status, outlives

    def __enter__(self) -> _Verdict:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, OccupiedError):
            return
        last = self.trainer.last if self.trainer else None
        done, loss = (last.step + 1, last.losses["loss"]) if last is not None else (0, None)
        code = exit_code_of(error)
        if self._outlives and code == ExitCode.LOST_PEER:
            return
        replaces = self.is_of_earlier and code != ExitCode.USER
        mark_failed(self._status, code, describe(error), done, loss, replaces=replaces)


def _total_steps(manifest: Manifest, loader: Loader) -> int:
    """The steps of the whole run, which the schedule spans: given, or those of the epochs of this data."""
    steps = manifest.training.steps if manifest.training.steps is not None else loader.steps
    assert steps is not None
    return steps


def _recorder(
    job: Job, state: TrainState, options: RunOptions, claim: Claim, steps: int, done: int | None
) -> Recorder:
    """The record, on rank 0; when this returns, on any rank, it is there, and all can say that they failed.

    Nothing is moved or made before all ranks have come here: they may read weights in `out`. A run that goes
    on, with so many steps `done`, goes on with the record that is there.
    """
    job.transport.exchange(b"")
    recorder = NoRecord() if job.transport.rank else _record(job, state, options, claim, steps, done)
    job.transport.exchange(b"")
    return recorder


def _record(
    job: Job, state: TrainState, options: RunOptions, claim: Claim, steps: int, done: int | None
) -> RunRecord:
    """With the model's text beside it: the folder is all that `moec logits` needs."""
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    claim.take()
    if done is None:
        _set_aside(out)  # a record without a verdict
    with written_whole(out / MODEL) as file:
        file.write(job.bundle.source.encode())
    world, bundle = job.transport.world, job.bundle.digest
    held = _held_bytes(state)
    trackers = open_trackers(options.observing, job, out, steps, done or 0)
    return RunRecord(
        out, steps=steps, world=world, bundle=bundle, state_bytes=held, done=done or 0, trackers=trackers
    )


def _held_bytes(state: TrainState) -> dict[str, int]:
    parameters, gradients, *moments = state.bytes_by_part().values()
    return {"parameters": parameters, "gradients": gradients, "optimizer": sum(moments)}


def _train(
    trainer: Trainer,
    steps: int,
    recorder: Recorder,
    saver: Checkpointer,
    companions: tuple[Companion, ...],
    measure: Measure,
    validator: Validator,
) -> Wish | None:
    def record(result: StepResult) -> None:
        recorder.step(
            replace(
                measure.of(result),
                checkpoint_stall_s=saver.take_stall_s(),
                skipped=trainer.skipped or None,
                rewinds=trainer.rewinds or None,
                validation_loss=validator.losses_after(result.step),
            )
        )

    try:
        return train(trainer, range(saver.done or 0, steps), companions, record)
    finally:
        for companion in companions:
            companion.close()


def _companions(
    trainer: Trainer, saver: Checkpointer, recorder: Recorder, watch: Watch, faults: Faults | None
) -> tuple[Companion, ...]:
    """What goes along with the run, in the order in which it is told of a step.

    Who looks whether a state is sound comes before who saves it.
    """
    job, state = trainer.job, trainer.state

    def warn(text: str) -> None:
        say(text)
        recorder.event("warning", text)

    numerics = Numerics(
        trainer,
        job.bundle.manifest.training,
        rewind=saver.rewind,
        rewound=recorder.rewound,
        trace=lambda: trace(state, job.bundle, job.transport),
        say=warn if job.transport.rank == 0 else lambda text: None,
    )
    if faults is not None:
        faults.reach(job.executor, state)
    return (*watch.companions(job.executor), *([faults] if faults else []), numerics, saver)
