"""`moec eval`, one rank of it: open bundle, weights and data, evaluate, say what was found."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moec.runtime.abi.bundle import read_manifest
from moec.runtime.checkpoint.compatible import check_parameters
from moec.runtime.checkpoint.inspect import checkpoint_at
from moec.runtime.checkpoint.load import Checkpoint, load_parameters
from moec.runtime.data.source import check_data
from moec.runtime.errors import ExitCode, UserError
from moec.runtime.evaluation import Evaluation, Evaluator
from moec.runtime.feeding import DataOptions, make_loader, open_data
from moec.runtime.initialise import initialise
from moec.runtime.job import Job, agree, default_transport, open_job
from moec.runtime.record.tally import number
from moec.runtime.state import TrainState, make_parameters
from moec.runtime.transport.factory import make_transport


@dataclass(frozen=True)
class EvaluateOptions:
    """What the user gave: where parameters are, in weights or in a checkpoint, and what they are to read.

    `batches` None: all of the data.
    """

    bundle: Path
    data: DataOptions
    weights: str | None = None
    checkpoint: Path | None = None
    batches: int | None = None
    transport: str | None = None
    as_json: bool = False
    timeout_s: float = 600.0


def run_evaluation(options: EvaluateOptions) -> int:
    """Evaluate, as one rank of the job that this process belongs to. What it raises has an exit code."""
    transport = make_transport(options.transport or default_transport(), timeout_s=options.timeout_s)
    read_manifest(options.bundle)
    check_data(options.data.data)
    job = open_job(options.bundle, transport)
    manifest = job.bundle.manifest
    state = make_parameters(manifest, transport.rank, transport.device)
    load(state, job, options.weights, options.checkpoint)
    with make_loader(open_data(options.data, job), manifest, transport.rank, epochs=1) as loader:
        evaluator = Evaluator(job, loader, lambda: list(state.parameters.values()), options.batches)
        found = evaluator.evaluate()
    if transport.rank == 0:
        print(json_of(found) if options.as_json else "\n".join(lines_of(found, options.data.data)))
    transport.close()
    return ExitCode.DONE


def load(state: TrainState, job: Job, weights: str | None, checkpoint: Path | None) -> None:
    """The parameters of every rank, from exactly one of both; each rank verifies its share of the files.

    Raises:
        UserError: it is not there, or of another model.
        IntegrityError: it is damaged.
    """
    if weights is not None:
        initialise(state, job, weights)
        return
    if checkpoint is None:
        raise UserError("a bundle has no parameters: give --weights or --checkpoint")
    found = Checkpoint(checkpoint_at(checkpoint))
    check_parameters(found.manifest, job.bundle.manifest, str(found.folder))
    found.verify_share(job.transport.rank, job.transport.world)
    agree({"checkpoint": found.digest()}, job.transport)
    load_parameters(state, found)


def json_of(found: Evaluation) -> str:
    """For programs; a number that is not finite is null."""
    data: dict[str, Any] = {
        "loss": found.loss if math.isfinite(found.loss) else None,
        "perplexity": found.perplexity if math.isfinite(found.perplexity) else None,
        "tokens": found.tokens,
        "loss_tokens": found.loss_tokens,
        "expert_load": found.load,
        "router_entropy": found.entropy,
    }
    return json.dumps(data, indent=1, allow_nan=False)


def lines_of(found: Evaluation, data: Sequence[str]) -> list[str]:
    """For people."""
    lines = [
        f"loss {number(found.loss)}  perplexity {number(found.perplexity)}",
        f"{found.tokens:,} tokens of {', '.join(data)}, {found.loss_tokens:,} of them predicted",
    ]
    width = max(map(len, found.load), default=0)
    for name, counts in found.load.items():
        shares = " ".join(f"{100 * count / max(sum(counts), 1):.1f}" for count in counts)
        lines.append(f"{name:<{width}}  % of choices by expert: {shares}")
    return lines
