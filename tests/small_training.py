"""Small models in training, on any transport: batches by step, weights by name, a trainer of a bundle."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import CompileOptions, compile_spec
from moec.dsl.spec import Spec
from moec.runtime.data.layout import assign
from moec.runtime.data.loader import Batch
from moec.runtime.job import open_job
from moec.runtime.state import TrainState, make_state
from moec.runtime.training import Trainer
from moec.runtime.transport.api import Transport
from small_models import batch_of, small_spec, weights_of

STEPS = 3


def spec_of(variant: str = "z", **degrees: int) -> Spec:
    return small_spec(variant, sequences="6", micro_batches="2", **degrees)  # type: ignore[arg-type]


class FixedBatches:
    """In the place of a loader: the batch of step k is drawn from seed k, and a rank gets its part of it."""

    def __init__(self, spec: Spec, capacity: int, world: int, rank: int) -> None:
        self.spec, self.capacity, self.world, self.rank = spec, capacity, world, rank

    def batch(self, step: int) -> Batch:
        tokens, targets = batch_of(self.spec, step)
        micro = self.spec.train.micro_batches
        rows = assign(len(tokens), micro, self.world, self.capacity, self.rank)
        mine = torch.zeros((micro, self.capacity, self.spec.train.sequence), dtype=torch.int64)
        wanted = torch.full_like(mine, -100)
        for m, positions in enumerate(rows):
            mine[m, : len(positions)] = tokens[positions.start : positions.stop]
            wanted[m, : len(positions)] = targets[positions.start : positions.stop]
        sequences = torch.tensor([len(positions) for positions in rows])
        first = torch.tensor([step * len(tokens) + positions.start for positions in rows])
        return Batch(mine, wanted, sequences, first)


def fill(state: TrainState, weights: dict[str, Tensor]) -> None:
    """Give a rank its part of the weights."""
    for name, shard in state.parameters.items():
        for piece in state.pieces(name):
            part = weights[piece.name].reshape(-1)[piece.start : piece.start + piece.count]
            shard[piece.offset : piece.offset + piece.count] = part


def bundle_of(path: Path, variant: str = "z", **degrees: int) -> Path:
    save(compile_spec(spec_of(variant, **degrees), CompileOptions(dtype="fp64")), path)
    return path


def trainer(path: Path, transport: Transport, variant: str = "z", steps: int = STEPS) -> Trainer:
    job = open_job(path, transport)
    manifest = job.bundle.manifest
    state = make_state(manifest, transport.rank, transport.device)
    spec = spec_of(variant)
    fill(state, weights_of(spec))
    batches = FixedBatches(spec, manifest.sequences, transport.world, transport.rank)
    return Trainer(job, state, batches, steps)  # type: ignore[arg-type]
