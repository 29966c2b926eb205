"""What the ranks of a layout compute, for `test_layouts.py`: run by mpirun, or by one process.

    python layout_job.py PLAN.json TRANSPORT

The plan lists entries: {"out": folder, "bundle": folder, "steps": N} trains N steps on CPython's
documentation from freshly drawn weights; {"out": folder, "bundle": folder, "case": name} runs the step of one
hand-made batch and keeps its gradients (the bundle's step is compiled without its update). Rank 0 writes what
came out to the folder.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from moec.runtime.abi.buffers import with_part
from moec.runtime.data.layout import assign
from moec.runtime.data.loader import Loader
from moec.runtime.data.samples import Source
from moec.runtime.data.source import open_stream
from moec.runtime.data.tokenizer import open_tokenizer
from moec.runtime.guard import run_rank
from moec.runtime.job import Job, open_job
from moec.runtime.state import TrainState, make_state
from moec.runtime.training import Trainer
from moec.runtime.transport.api import Transport
from moec.runtime.transport.factory import make_transport
from moec.runtime.weights.save import save_weights


def main() -> int:
    plan, transport = json.loads(Path(sys.argv[1]).read_text()), make_transport(sys.argv[2], timeout_s=60.0)
    torch.set_num_threads(1)
    for entry in plan:
        job = open_job(Path(entry["bundle"]), transport)
        out = Path(entry["out"])
        result = _train(job, out, entry["steps"]) if "steps" in entry else _case(job, out, entry["case"])
        if transport.rank == 0:
            (out / "result.json").write_text(json.dumps(result))
    transport.close()
    return 0


def _train(job: Job, out: Path, steps: int) -> dict[str, object]:
    manifest, transport = job.bundle.manifest, job.transport
    training = manifest.training
    state = make_state(manifest, transport.rank, transport.device)
    state.draw(training.seed, manifest.init_std)
    _save(job, state, out / "initial")
    stream = open_stream("builtin:python-docs", open_tokenizer(), manifest.vocab)
    loader = Loader(
        [Source(stream)], sequence=training.sequence, batch_sequences=training.batch_sequences,
        micro_batches=training.micro_batches, data_ranks=manifest.world, data_rank=transport.rank,
        seed=training.seed,
    )  # fmt: skip
    with loader:
        trainer = Trainer(job, state, loader, steps)
        batches = [_digest_batch(transport, loader.batch(step)) for step in range(2)]
        losses = [trainer.step(step).losses for step in range(steps)]
    _save(job, state, out / "final")
    return {"losses": losses, "batches": batches, "bytes": state.bytes_by_part()}


def _digest_batch(transport: Transport, batch: object) -> str:
    """The tokens of the global batch, wherever they are."""
    rows = [
        batch.tokens[m, i].tolist() + batch.targets[m, i].tolist()  # type: ignore[attr-defined]
        for m, count in enumerate(batch.sequences.tolist())  # type: ignore[attr-defined]
        for i in range(count)
    ]
    everyone = [row for answer in transport.exchange(json.dumps(rows).encode()) for row in json.loads(answer)]
    return hashlib.sha256(json.dumps(sorted(everyone)).encode()).hexdigest()


def _case(job: Job, out: Path, case: str) -> dict[str, object]:
    manifest, transport = job.bundle.manifest, job.transport
    state = make_state(manifest, transport.rank, transport.device)
    state.draw(manifest.training.seed, 0.2)
    if case == "one expert":
        _prefer_expert(state, 0)
    if case == "idle expert":
        _avoid_expert(state, 3)
    batch = _batch(job, short=case == "short batch")
    arguments = [*batch, 0.0, torch.tensor(1.0), math.inf, *state.arguments()]
    with torch.no_grad():
        losses, loads, norm, _, tokens = job.executor.run("step", arguments)
    _save(job, state, out / "gradients", part="gradient")
    named = dict(zip(manifest.losses, losses.tolist(), strict=True))
    return {"losses": named, "loads": loads.tolist(), "grad_norm": norm.item(), "tokens": int(tokens)}


def _prefer_expert(state: TrainState, best: int) -> None:
    """Every token goes to `best`: the first element of every embedding is large, and routers look at it."""
    _add(state, lambda name, row: 5.0 if name == "embed" else 0.0)
    _add(state, lambda name, row: (3.0 if row == best else -3.0) if name.endswith(".router") else 0.0)


def _avoid_expert(state: TrainState, worst: int) -> None:
    """No token goes to `worst`."""
    _add(state, lambda name, row: 5.0 if name == "embed" else 0.0)
    _add(state, lambda name, row: -9.0 if name.endswith(".router") and row == worst else 0.0)


def _add(state: TrainState, amount: Callable[[str, int], float]) -> None:
    """Add amount(name, row) to the first column of every matrix."""
    for name, shard in state.parameters.items():
        for piece in state.pieces(name):
            if len(piece.shape) == 2:
                at = torch.arange(piece.start, piece.start + piece.count)
                first = (at % piece.shape[1] == 0).nonzero().flatten()
                rows = (at[first] // piece.shape[1]).tolist()
                shard[piece.offset + first] += torch.tensor([amount(piece.name, row) for row in rows])


def _batch(job: Job, short: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    manifest = job.bundle.manifest
    training = manifest.training
    count = 1 if short else training.batch_sequences
    numbers = torch.Generator().manual_seed(7)
    shape = (count, training.sequence)
    tokens, targets = (torch.randint(0, manifest.vocab, shape, generator=numbers) for _ in range(2))
    mine = torch.zeros((training.micro_batches, manifest.sequences, training.sequence), dtype=torch.int64)
    wanted = torch.full_like(mine, -100)
    rows = assign(count, training.micro_batches, manifest.world, manifest.sequences, job.transport.rank)
    for m, positions in enumerate(rows):
        mine[m, : len(positions)] = tokens[positions.start : positions.stop]
        wanted[m, : len(positions)] = targets[positions.start : positions.stop]
    sequences = torch.tensor([len(positions) for positions in rows])
    return mine, wanted, sequences, torch.tensor([positions.start for positions in rows])


def _save(job: Job, state: TrainState, out: Path, part: str = "parameter") -> None:
    held = with_part(part, state.buffers)
    save_weights(out, held, state.parts[part], state.mesh, job.groups, job.transport)


if __name__ == "__main__":
    sys.exit(run_rank(main))
