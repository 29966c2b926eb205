"""AdamW on flat shards: torch's fused kernel, for moments in bfloat16 a block at a time in float32.

Moments in bfloat16 have 8 significant bits. Rounded to the nearest, a moment that changes by less than half a
unit in the last place would never change: with beta2 = 0.999 the second moment, once large, would stay so for
ever. So they are rounded up or down at random, the nearer one the more often: right on average, however small
the change. The random number is a hash of the bits of the number that is rounded, of those of its parameter,
and of the update's count: it is the same at every layout, needs no state, and comes out again when a run is
resumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .counter_kernels import mix

BLOCK = 1 << 20
"""Elements whose moments are in float32 at a time."""

_LOW_BITS = 16  # of float32, which bfloat16 lacks


@dataclass(frozen=True)
class AdamW:
    """Loshchilov and Hutter, 2019, algorithm 2."""

    lr: float
    beta1: float
    beta2: float
    eps: float
    weight_decay: float

    def update(
        self, parameter: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor
    ) -> None:
        """(numel,) each, in place, all of one dtype; `step` () float counts updates from 1."""
        torch._fused_adamw_(
            [parameter],
            [gradient],
            [exp_avg],
            [exp_avg_sq],
            [],
            [step],
            lr=self.lr,
            beta1=self.beta1,
            beta2=self.beta2,
            weight_decay=self.weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def update_with_halves(
        self, parameter: Tensor, gradient: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, step: Tensor
    ) -> None:
        """The same with moments in bfloat16, beside float32. The update itself has them before rounding."""
        for begin in range(0, parameter.numel(), BLOCK):
            here = slice(begin, begin + BLOCK)
            moments = exp_avg[here].float(), exp_avg_sq[here].float()
            self.update(parameter[here], gradient[here], *moments, step)
            for stored, moment in zip((exp_avg, exp_avg_sq), moments, strict=True):
                stored[here] = rounded(moment, parameter[here], step)


def rounded(x: Tensor, parameter: Tensor, step: Tensor) -> Tensor:
    """float32 (numel,) -> bfloat16, up or down so that it is right on average over `parameter` and `step`.

    What lies p of the way from one number of bfloat16 to the next becomes the next with probability p.
    """
    bits = x.view(torch.int32)
    words = bits.to(torch.int64) + (parameter.view(torch.int32).to(torch.int64) << 32)
    drawn = mix(words + mix(step.to(torch.int64))) & ((1 << _LOW_BITS) - 1)
    up = (bits + drawn.to(torch.int32)) & -(1 << _LOW_BITS)
    return torch.where(x.isfinite(), up.view(torch.float32), x).to(torch.bfloat16)
