"""Training: run the step program over the batches of the data, and keep record of it."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch

from .abi.bundle import Manifest
from .abi.machine_ops import is_sound
from .data.loader import Batch, Loader
from .errors import NumericalError
from .job import Job
from .schedule import Constant, Cosine, Schedule, learning_rate
from .state import TrainState


@dataclass(frozen=True)
class StepResult:
    """One step, summed over all ranks. `load` counts the choices of every expert, by MoE.

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


class Trainer:
    """One rank's training run. Every rank calls `step` with the same step numbers.

    `loss_limit`, the same on all ranks, is the largest loss with which a step updates.
    """

    def __init__(self, job: Job, state: TrainState, loader: Loader, steps: int) -> None:
        self.job, self.state, self.loader, self.steps = job, state, loader, steps
        self.manifest = job.bundle.manifest
        self.schedule = schedule_of(self.manifest)
        self.loss_limit = math.inf
        self.last: StepResult | None = None  # step that is done

    def step(self, step: int) -> StepResult:
        """Do one training step, from 0. Its losses may be no numbers: see `check_finite`."""
        start_s = time.perf_counter()
        lr = learning_rate(step, self.steps, self.manifest.training.lr, self.schedule)
        losses, loads, grad_norm, tokens = self._run(self.loader.batch(step), lr, step + 1)
        result = StepResult(
            step=step,
            losses=dict(zip(self.manifest.losses, losses, strict=True)),
            grad_norm=grad_norm,
            lr=lr,
            tokens=tokens,
            step_s=time.perf_counter() - start_s,
            load=self._by_moe(loads),
            updated=is_sound(losses, grad_norm, self.loss_limit),
        )
        self.last = result
        return result

    def _run(self, batch: Batch, lr: float, update: int) -> tuple[list[float], list[int], float, int]:
        device = self.job.transport.device
        arguments = [
            *(t.to(device) for t in (batch.tokens, batch.targets, batch.sequences, batch.first)),
            lr,
            torch.tensor(float(update), device=device),
            self.loss_limit,
            *self.state.arguments(),
        ]
        with torch.no_grad():
            losses, loads, norm, _, tokens = self.job.executor.run("step", arguments)
        return losses.tolist(), loads.tolist(), norm.item(), int(tokens)

    def _by_moe(self, loads: list[int]) -> dict[str, list[int]]:
        found, start = {}, 0
        for name, experts in self.manifest.loads:
            found[name.removesuffix(".load")] = loads[start : start + experts]
            start += experts
        return found


def schedule_of(manifest: Manifest) -> Schedule:
    """The learning rate schedule of a bundle."""
    schedule = manifest.training.schedule
    if schedule.kind == "cosine":
        return Cosine(schedule.warmup, schedule.floor)
    return Constant(schedule.warmup)


def check_finite(result: StepResult) -> None:
    """Raises NumericalError if a loss or the norm of the gradients is not finite."""
    for name, number in {**result.losses, "grad_norm": result.grad_norm}.items():
        if not math.isfinite(number):
            raise NumericalError(f"{name} is {number} in step {result.step}", operation="step")
