"""Training: run the step program over the batches of the data, and keep record of it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from .abi.bundle import Manifest
from .abi.machine_ops import is_sound
from .data.loader import Batch, Loader
from .job import Job
from .profile.work import Work
from .schedule import Constant, Cosine, Schedule, learning_rate
from .state import TrainState

V = TypeVar("V")


@dataclass(frozen=True)
class StepResult:
    """One step, summed over all ranks. `load` counts the choices of every expert, by MoE.

    `entropy` is the mean entropy of the router, and `dropped`, where there is a capacity, counts choices
    without room and tokens without any choice that had room; both by MoE. `work` is of this rank.

    A step whose losses or norm are not finite, or whose loss exceeds the trainer's limit, has not `updated`
    anything: parameters, moments and biases are those of before.
    """

    step: int
    losses: dict[str, float]
    grad_norm: float
    lr: float
    tokens: int
    step_s: float
    load: dict[str, list[int]]
    updated: bool = True
    entropy: dict[str, float] = field(default_factory=dict)
    dropped: dict[str, tuple[int, int]] = field(default_factory=dict)
    work: Work = field(default_factory=Work)


class Trainer:
    """One rank's training run. Every rank calls `step` with the same step numbers.

    `loss_limit`, the same on all ranks, is the largest loss with which a step updates. `skipped` counts steps
    that did not, `rewinds` how often the run went back.
    """

    def __init__(self, job: Job, state: TrainState, loader: Loader, steps: int) -> None:
        self.job, self.state, self.loader, self.steps = job, state, loader, steps
        self.manifest = job.bundle.manifest
        self.schedule = schedule_of(self.manifest)
        self.loss_limit = math.inf
        self.skipped = self.rewinds = 0
        self.last: StepResult | None = None  # step that is done

    def step(self, step: int) -> StepResult:
        """Do one training step, from 0. Its losses may be no numbers: see `StepResult`."""
        self.job.meter.take()  # what was counted between steps
        start_s = time.perf_counter()
        batch = self.loader.batch(self.batch_of(step))
        data_s = time.perf_counter() - start_s
        lr = learning_rate(step, self.steps, self.manifest.training.lr, self.schedule)
        numbers, loads, grad_norm, tokens = self._run(batch, lr, step + 1)
        step_s = time.perf_counter() - start_s
        means, counts = named_means(self.manifest, numbers), named_counts(self.manifest, loads)
        result = StepResult(
            step=step,
            losses=losses_of(means),
            grad_norm=grad_norm,
            lr=lr,
            tokens=tokens,
            step_s=step_s,
            load={name: list(found) for name, found in of_moes(counts, "load").items()},
            updated=is_sound(numbers, grad_norm, self.loss_limit),
            entropy=of_moes(means, "entropy"),
            dropped={name: (choices, none) for name, (choices, none) in of_moes(counts, "dropped").items()},
            work=Work(start_s, step_s, data_s, self.job.meter.take()),
        )
        self.last = result
        self.skipped += not result.updated
        return result

    def batch_of(self, step: int) -> int:
        """Which batch of the run's order a step takes: its own number, or one after batches passed over."""
        return step + self.state.passed_over

    def pass_over(self, batches: int) -> None:
        """After going back: leave out so many batches before the next step; the same on all ranks."""
        self.state.passed_over += batches
        self.rewinds += 1

    def _run(self, batch: Batch, lr: float, update: int) -> tuple[list[float], list[int], float, int]:
        device = self.job.transport.device
        arguments = [
            *(tensor.to(device) for tensor in batch.tensors),
            lr,
            torch.tensor(float(update), device=device),
            self.loss_limit,
            *batch.documents_on(device),
            *self.state.arguments(),
        ]
        with torch.no_grad():
            losses, loads, norm, _, tokens = self.job.executor.run("step", arguments)
        return losses.tolist(), loads.tolist(), norm.item(), int(tokens)


def named_means(manifest: Manifest, numbers: Sequence[float]) -> dict[str, float]:
    """The numbers of a step's first result by name: losses, and `<moe>.entropy`."""
    return dict(zip(manifest.losses, numbers, strict=True))


def named_counts(manifest: Manifest, numbers: Sequence[int]) -> dict[str, Sequence[int]]:
    """The numbers of a step's second result by name: `<moe>.load` and `<moe>.dropped`."""
    found, start = {}, 0
    for name, count in manifest.loads:
        found[name] = numbers[start : start + count]
        start += count
    return found


def losses_of(means: Mapping[str, float]) -> dict[str, float]:
    """Those that are of no MoE, but of the model."""
    return {name: number for name, number in means.items() if "." not in name}


def of_moes(named: Mapping[str, V], what: str) -> dict[str, V]:
    """MoE -> its `what`: of all names `<moe>.<what>`."""
    suffix = f".{what}"
    return {n.removesuffix(suffix): found for n, found in named.items() if n.endswith(suffix)}


def schedule_of(manifest: Manifest) -> Schedule:
    """The learning rate schedule of a bundle."""
    schedule = manifest.training.schedule
    if schedule.kind == "cosine":
        return Cosine(schedule.warmup, schedule.floor)
    return Constant(schedule.warmup)
