"""A step as the record has it: what was computed, and what follows from it.

The share of the peak (model FLOPs utilisation, Chowdhery et al., 2022, appendix B) is what the model needs
over what the devices of all ranks could do; what is computed twice to save memory does not count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moec.runtime.record.metrics import StepMetrics
from moec.runtime.training import StepResult


@dataclass(frozen=True)
class Measure:
    """Operations that the model needs for a token, forward and backward; and those that all ranks together
    can do in a second, if that is known."""

    flops_per_token: int
    peak_flops_per_s: float | None = None

    def of(self, result: StepResult) -> StepMetrics:
        """What is recorded of a step."""
        flops_per_s = self.flops_per_token * result.tokens / result.step_s
        peak = self.peak_flops_per_s
        return StepMetrics(
            step=result.step,
            loss=result.losses["loss"],
            aux_loss=result.losses.get("aux_loss", 0.0),
            sequence_aux_loss=result.losses.get("sequence_aux_loss"),
            z_loss=result.losses.get("z_loss"),
            grad_norm=result.grad_norm,
            lr=result.lr,
            tokens=result.tokens,
            tokens_per_s=result.tokens / result.step_s,
            step_s=result.step_s,
            flops_per_s=flops_per_s,
            mfu=flops_per_s / peak if peak else None,
            expert_load=result.load,
            load_imbalance={name: imbalance(load) for name, load in result.load.items() if sum(load)},
            router_entropy=result.entropy,
            dropped_choices={name: choices for name, (choices, _) in result.dropped.items()},
            dropped_tokens={name: tokens for name, (_, tokens) in result.dropped.items()},
            bytes_sent=result.work.moved.by_axis(),
            time_s=result.work.times_s(),
        )


def imbalance(load: Sequence[int]) -> float:
    """The largest over the mean: 1 is even, as many as there are experts is one that gets everything."""
    return max(load) * len(load) / sum(load)
