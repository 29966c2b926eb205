"""The work of computing a node again, in floating-point operations, from its shapes.

A product of matrices counts 2 for every multiplication and addition; anything else 1 for every number it
gives. A byte that is sent again counts `OPERATIONS_PER_SENT_BYTE`: what an accelerator computes while its
network moves one (some 400 TFLOP/s over 100 GB/s).
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from .sizes import Sizes, tensors

_aten, _moec = torch.ops.aten, torch.ops.moec
OPERATIONS_PER_SENT_BYTE = 4096


def work(node: fx.Node, sizes: Sizes) -> int:
    """What it takes to compute `node`."""
    match node.target:
        case _aten.mm.default:
            return _product(node, 0, sizes)
        case _aten.addmm.default:
            return _product(node, 1, sizes)
        case _moec.expert_mm.default:
            return _product(node, 0, sizes)
        case _moec.attention.default:
            return _attention(node, 5, sizes)
        case _moec.document_attention.default:
            return _attention(node, 6, sizes)
        case _moec.all_to_all.default | _moec.all_reduce.default | _moec.shard_gather.default:
            return sizes.bytes(node) * OPERATIONS_PER_SENT_BYTE
        case _moec.reduce_scatter.default:
            return sizes.bytes(_argument(node, 0)) * OPERATIONS_PER_SENT_BYTE
        case _moec.token_losses.default:
            return _product(node, 0, sizes, _tensor(node.args[1]))
        case _moec.combine.default | _moec.combine_selected.default:
            return 2 * prod(sizes.shape(_tensor(node.args[0])))
    return sizes.elements(node)


def _product(node: fx.Node, position: int, sizes: Sizes, matrix: Tensor | None = None) -> int:
    """(R, in) at `position` times a matrix; `matrix` (out, in), where the result is not the product."""
    rows = sizes.shape(_tensor(node.args[position]))
    if matrix is not None:
        return 2 * prod(rows) * sizes.shape(matrix)[0]
    return 2 * rows[1] * sum(prod(sizes.shape(x)) for x in tensors(node))


def _attention(node: fx.Node, window_at: int, sizes: Sizes) -> int:
    """Scores and values of the keys that a query sees, on average.

    All before it are half of the sequence or of its chunk; those of its window are all of them. The arguments
    `window` and, after it, `chunk` are 0 where there is none. Documents are counted as one.
    """
    q, v = (sizes.shape(_tensor(node.args[i])) for i in (0, 2))
    batch, length, heads, dims = q
    window, chunk = node.args[window_at : window_at + 2]
    assert isinstance(window, int)
    assert isinstance(chunk, int)
    twice_seen = min(length, 2 * window or length, chunk or length)
    return batch * heads * length * twice_seen * (dims + v[3])


def _argument(node: fx.Node, position: int) -> fx.Node:
    found = node.args[position]
    assert isinstance(found, fx.Node)
    return found


def _tensor(argument: Any) -> Tensor:
    assert isinstance(argument, fx.Node)
    return next(tensors(argument))
