"""Evaluation: what a model says to data, with nothing changed and nothing random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .data.loader import Batch, Loader
from .job import Job
from .training import named_counts, named_means, of_moes


@dataclass(frozen=True)
class Evaluation:
    """Sums over all ranks and batches.

    `loss` is the mean cross-entropy, in nats, over `loss_tokens`; `tokens` were read. `load` counts the
    choices of every expert, by MoE; `entropy` is the mean of that of its router.
    """

    loss: float
    tokens: int
    loss_tokens: int
    load: dict[str, list[int]]
    entropy: dict[str, float]

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite where that is no float."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf


class Evaluator:
    """Evaluates the first `batches` batches of a loader, or all, of one epoch.

    They are the same sequences each time and at every layout. `parameters` gives the shards as they are then.
    """

    def __init__(
        self, job: Job, loader: Loader, parameters: Callable[[], Sequence[Tensor]], batches: int | None = None
    ) -> None:
        assert loader.steps is not None
        self.job, self.loader, self.parameters = job, loader, parameters
        self.batches = loader.steps if batches is None else min(batches, loader.steps)

    def evaluate(self, done: Callable[[int], None] = lambda batch: None) -> Evaluation:
        """All ranks together; `done` is told of every batch.

        Raises:
            InputOutputError, IntegrityError: the data cannot be read.
        """
        total: _Sums | None = None
        for number in range(self.batches):
            sums = self._batch(self.loader.batch(number))
            total = sums if total is None else total.plus(sums)
            done(number)
        assert total is not None
        return total.finished(self.job)

    def _batch(self, batch: Batch) -> _Sums:
        device = self.job.transport.device
        arguments = [
            *(tensor.to(device) for tensor in batch.tensors),
            *batch.documents_on(device),
            *self.parameters(),
        ]
        with torch.no_grad():
            means, counts, loss_tokens, tokens = self.job.executor.run("evaluate", arguments)
        return _Sums(means.double().cpu(), counts.cpu(), int(loss_tokens), int(tokens))


@dataclass(frozen=True)
class _Sums:
    """Of one batch or more: means (n,) float64, whole numbers (m,) int64, and the tokens they are over."""

    means: Tensor
    counts: Tensor
    loss_tokens: int
    tokens: int

    def plus(self, other: _Sums) -> _Sums:
        """Both together. The first mean is the loss, over its own tokens; the others are over all."""
        weights = [torch.full_like(self.means, s.tokens) for s in (self, other)]
        for weight, sums in zip(weights, (self, other), strict=True):
            weight[0] = sums.loss_tokens
        means = [torch.where(w > 0, w * s.means, 0.0) for w, s in zip(weights, (self, other), strict=True)]
        return _Sums(
            (means[0] + means[1]) / (weights[0] + weights[1]).clamp(min=1),
            self.counts + other.counts,
            self.loss_tokens + other.loss_tokens,
            self.tokens + other.tokens,
        )

    def finished(self, job: Job) -> Evaluation:
        manifest = job.bundle.manifest
        means = named_means(manifest, self.means.tolist())
        load = of_moes(named_counts(manifest, self.counts.tolist()), "load")
        return Evaluation(
            loss=means["loss"],
            tokens=self.tokens,
            loss_tokens=self.loss_tokens,
            load={name: list(found) for name, found in load.items()},
            entropy=of_moes(means, "entropy"),
        )
