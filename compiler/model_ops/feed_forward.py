"""Feed-forward networks: what is between their matrices.

Legend: R rows, of tokens or at experts, F width between the matrices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moec.dsl.spec import Activation


def activate(x: Tensor, activation: Activation, alpha: float) -> Tensor:
    """(R, F) -> (R, F); silu is x * sigmoid(alpha * x), relu2 is relu(x)^2."""
    match activation:
        case "silu":
            return F.silu(x) if alpha == 1.0 else x * torch.sigmoid(x * alpha)
        case "gelu":
            return F.gelu(x)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "relu":
            return F.relu(x)
        case "relu2":
            return F.relu(x).square()


def clamp_above(x: Tensor, limit: float) -> Tensor:
    """Every element at most `limit`."""
    return x.clamp(max=limit)


def gated(gate: Tensor, up: Tensor, offset: float) -> Tensor:
    """(R, F), (R, F) -> gate * (up + offset)."""
    return gate * up if offset == 0.0 else gate * (up + offset)
