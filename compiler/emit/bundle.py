"""A compilation -> a bundle on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from moec import __version__
from moec.compiler.emit.weight_map import weight_map
from moec.compiler.flops import flops_per_token
from moec.compiler.pipeline import Compiled
from moec.dsl.compare import facts
from moec.dsl.parameters import count
from moec.dsl.spec import Cosine, TrainSpec
from moec.dsl.written import memory_texts
from moec.runtime.abi.bundle import (
    FORMAT,
    VERSION,
    Manifest,
    Schedule,
    Toolchain,
    Training,
    Validation,
    write_bundle,
)
from moec.runtime.abi.dtypes import NAMES
from moec.runtime.abi.manifest import Checkpointing, OnNonfinite, OnSpike

_WIDE: dict[torch.dtype, Literal["float32", "float64"]] = {
    torch.float32: "float32",
    torch.float64: "float64",
}


def save(compiled: Compiled, path: Path) -> str:
    """Write the bundle of a compilation at `path` and return its digest.

    Errors are those of `write_bundle`.
    """
    names = weight_map(compiled.spec.checkpoint)
    return write_bundle(path, manifest(compiled), compiled.programs, names, compiled.spec.text)


def manifest(compiled: Compiled) -> Manifest:
    """What a run needs to know, without the digests of files."""
    model, shape = compiled.spec.model, compiled.reference.shape
    total, active = count(model)
    return Manifest(
        format=FORMAT,
        version=VERSION,
        toolchain=Toolchain(moec=__version__, torch=torch.__version__.split("+")[0]),
        model=model.name,
        vocab=model.vocab,
        context=model.context,
        parameters=total,
        active_parameters=active,
        flops_per_token=flops_per_token(model, compiled.spec.train.sequence),
        init_std=model.init_std,
        dtype=_WIDE[compiled.plan.numerics.parameters],
        compute=NAMES[compiled.plan.numerics.compute],
        moments=NAMES[compiled.plan.numerics.moments],
        sequences=shape.sequences,
        mesh=compiled.plan.mesh,
        training=_training(compiled.spec.train),
        chain=compiled.reference.chain,
        buffers=compiled.plan.buffers,
        losses=compiled.micro_batch.losses,
        loads=compiled.micro_batch.loads,
        options=memory_texts(compiled.spec.memory),
        facts=facts(compiled.spec),
        files={},
    )


def _checkpointing(train: TrainSpec) -> Checkpointing | None:
    return None if train.checkpoint is None else Checkpointing(train.checkpoint.every, train.checkpoint.keep)


def _training(train: TrainSpec) -> Training:
    schedule = train.schedule
    return Training(
        sequence=train.sequence,
        batch_sequences=train.batch_sequences,
        micro_batches=train.micro_batches,
        steps=train.steps,
        epochs=train.epochs,
        lr=train.optimizer.lr,
        schedule=Schedule(
            kind="cosine" if isinstance(schedule, Cosine) else "constant",
            warmup=schedule.warmup,
            floor=schedule.floor if isinstance(schedule, Cosine) else 1.0,
        ),
        seed=train.seed,
        documents=train.documents,
        validation=None
        if train.validation is None
        else Validation(train.validation.every, train.validation.batches),
        checkpoint=_checkpointing(train),
        nonfinite=OnNonfinite(train.nonfinite.kind, train.nonfinite.most),
        spike=OnSpike(train.spike.kind, train.spike.factor, train.spike.most),
    )
