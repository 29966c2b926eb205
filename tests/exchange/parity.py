"""How close an imported model comes to transformers, in tolerances: up to 1 is the same."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from moec import dsl
from moec.cli.exchange.source import all_shapes
from moec.compiler.build.statistics import statistics_of
from moec.dsl.spec import ModelSpec
from moec.runtime.weights.reader import WeightsReader

from .families import Published

# Both compute in float32, whose resolution is 1.2e-7, and sum in other orders, through four layers.
LOGITS_TOLERANCE = 1e-5
"""Of the largest logit, which counts as 1 if it is smaller."""
LOSS_TOLERANCE = 1e-5
"""Of the loss."""
GRADIENT_TOLERANCE = 1e-4
"""Of the norm of a parameter's gradient."""


def tensors(directory: Path) -> dict[str, Tensor]:
    """All weights of an import, in the shapes of its model."""
    reader = WeightsReader(directory / "weights")
    shapes = all_shapes(dsl.load(directory / "model.moe"))
    return {n: reader.read(n, 0, prod(shape)).view(shape) for n, shape in shapes.items()}


def shifted(ids: Tensor) -> Tensor:
    """(B, S) -> the ids that follow, (B, S); -100 where none does."""
    targets = torch.full_like(ids, -100)
    targets[:, :-1] = ids[:, 1:]
    return targets


def logits_apart(found: Tensor, wanted: Published) -> float:
    """Of logits (B, S, vocab): the largest difference, in tolerances."""
    largest = max(1.0, wanted.logits.abs().max().item())
    return (found - wanted.logits).abs().max().item() / (LOGITS_TOLERANCE * largest)


def losses_apart(model: ModelSpec, found: Mapping[str, float], wanted: Published) -> float:
    """Of the loss, with the auxiliary loss where transformers adds one, and of that alone: the larger
    difference, in tolerances. `model` has the coefficient."""
    if wanted.aux_loss is None:
        return _apart(found["loss"], wanted.loss)
    term, aux_loss = statistics_of(model).aux, found.get("aux_loss", 0.0)
    total = found["loss"] + (term.coefficient * aux_loss if term else 0.0)
    return max(_apart(total, wanted.loss), _apart(aux_loss, wanted.aux_loss))


def _apart(found: float, wanted: float) -> float:
    return abs(found - wanted) / (LOSS_TOLERANCE * abs(wanted))
