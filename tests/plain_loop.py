"""A training loop as one writes it by hand, with torch's AdamW: in float32, or under autocast to bfloat16."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Recipe:
    """A cosine schedule with warmup over `total` steps; weight decay on matrices only."""

    lr: float
    betas: tuple[float, float]
    eps: float
    decay: float
    clip: float
    aux: float  # the factor of the auxiliary loss
    warmup: int
    floor: float
    total: int

    def factor(self, step: int) -> float:
        """Of lr, in `step` from 0."""
        if step < self.warmup:
            return step / self.warmup
        share = (step - self.warmup) / (self.total - self.warmup)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True)
class PlainStep:
    """What one step finds before its update."""

    loss: float
    aux_loss: float
    grad_norm: float
    lr: float


def plain_loop(
    model: torch.nn.Module, recipe: Recipe, tokens: Tensor, targets: Tensor, autocast: bool = False
) -> list[PlainStep]:
    """Train on `tokens` and `targets`, (steps, sequences, sequence) int64 each.

    Under autocast, products are in bfloat16; weights, gradients and the optimizer stay float32.
    """
    optimizer = torch.optim.AdamW(
        _groups(model, recipe.decay), lr=recipe.lr, betas=recipe.betas, eps=recipe.eps
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.factor)
    steps = []
    for ids, wanted in zip(tokens, targets, strict=True):
        with torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext():
            out = model(input_ids=ids, output_router_logits=True)
            loss = torch.nn.functional.cross_entropy(out.logits.float().flatten(0, 1), wanted.flatten())
            objective = loss + recipe.aux * out.aux_loss
        objective.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        steps.append(PlainStep(loss.item(), out.aux_loss.item(), norm.item(), schedule.get_last_lr()[0]))
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    return steps


def _groups(model: torch.nn.Module, decay: float) -> list[dict[str, object]]:
    """transformers stacks experts, so theirs have three dims."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
