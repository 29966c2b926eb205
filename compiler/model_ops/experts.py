"""Feed-forward networks, and the way of tokens to experts and back.

Legend: T tokens, D width, E experts, K choices, N = T * K routed rows.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from moec.runtime.abi import expert_ops, routing_ops


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up."""
    return F.silu(gate) * up


def sigmoid_gate(x: Tensor, gate: Tensor) -> Tensor:
    """(T, D), (T, 1) -> x * sigmoid(gate)."""
    return x * torch.sigmoid(gate)


def group_by_expert(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """(T, K) -> order (N,) that sorts the pairs by expert, its inverse (N,), and rows of each expert (E,)."""
    flat = chosen.reshape(-1)
    order = flat.argsort(stable=True)
    return order, routing_ops.inverse_permutation(order), routing_ops.histogram(flat, experts)


def dispatch(x: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
    """(T, D) -> (N, D), sorted by expert."""
    rows: Tensor = routing_ops.dispatch(x, order, inverse, k)
    return rows


def expert_mm(rows: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """(R, in), (e, out, in), (e,) -> (R, out)."""
    out: Tensor = expert_ops.expert_mm(rows, weight, counts)
    return out


def combine(rows: Tensor, weights: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
    """(N, D), (T, K) -> (T, D)."""
    out: Tensor = routing_ops.combine(rows, weights, order, inverse)
    return out
