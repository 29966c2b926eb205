"""What a device can do at most, measured: products of square matrices, as large as those of a small model."""

from __future__ import annotations

import time

import torch

_SIZE = 512
_ENOUGH_S = 0.05
_MOST_TIMES = 1000


def measured_flops_per_s(dtype: torch.dtype, device: torch.device) -> float | None:
    """Operations a second of the fastest product of two matrices, within some 50 ms; None but for a CPU.

    A GPU's figure is its maker's; measuring it in so short a time says little.
    """
    if device.type != "cpu":
        return None
    a, b = (torch.ones(_SIZE, _SIZE, dtype=dtype, device=device) for _ in range(2))
    best_s, begin_s = float("inf"), time.perf_counter()
    for _ in range(_MOST_TIMES):
        before_s = time.perf_counter()
        torch.mm(a, b)
        after_s = time.perf_counter()
        best_s = min(best_s, after_s - before_s)
        if after_s - begin_s > _ENOUGH_S:
            break
    return 2 * _SIZE**3 / best_s
