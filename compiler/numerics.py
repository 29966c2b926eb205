"""The number formats of a step, and where one becomes another.

    parameters   the shards of parameters, which the optimizer changes, and of gradients
    compute      matrices, gathered in it; activations and their gradients
    router       the product of tokens with a router's matrix
    reduce       gradients on their way to their shards
    moments      what the optimizer keeps

Vectors (norms, biases, sinks) and what statistics, scores, losses and norms are computed in are `wide`:
float32, or float64 where everything is. Every change of format is a node of a graph, and shards of parameters
change theirs once a step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from moec.dsl.spec import DType, PrecisionSpec
from moec.runtime.abi.dtypes import wide

DTYPES: dict[DType, torch.dtype] = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Numerics:
    """The dtypes of a step; by default all are float32."""

    compute: torch.dtype = torch.float32
    parameters: torch.dtype = torch.float32
    reduce: torch.dtype = torch.float32
    router: torch.dtype = torch.float32
    moments: torch.dtype = torch.float32

    @property
    def wide(self) -> torch.dtype:
        """Of statistics, scores and losses."""
        return wide(self.compute)


FLOAT32 = Numerics()


def numerics_of(precision: PrecisionSpec, everything: DType | None = None) -> Numerics:
    """Those of a spec, or one dtype for `everything`."""
    if everything is not None:
        return Numerics(*[DTYPES[everything]] * 5)
    formats = (precision.compute, precision.params, precision.reduce, precision.router, precision.optimizer)
    return Numerics(*(DTYPES[name] for name in formats))
