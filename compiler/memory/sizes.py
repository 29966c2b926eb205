"""Bytes of traced values, with a number for every size that depends on data.

The rows that arrive at a rank's experts are such a size. They are counted at balanced routing, where every
expert is chosen equally often, on the rank that holds the most experts. Values share memory where one is a
view of another; what a view holds is all of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from moec.compiler.build.model import ReferenceModel
from moec.compiler.errors import InternalCompilerError
from moec.compiler.graph import VAL, component
from moec.dsl.components import is_inside
from moec.dsl.spec import Layer, ModelSpec, Moe
from moec.runtime.abi.mesh import Mesh


@dataclass(frozen=True)
class Sizes:
    """`rows`: how many rows arrive at the experts of each mixture of a region, by the mixture's path."""

    rows: dict[str, int] = field(default_factory=dict)
    symbols: dict[Any, int] = field(default_factory=dict)  # sizes that depend on data, by their symbols

    def of(self, graph: fx.Graph) -> Sizes:
        """With the symbols of a traced graph."""
        found = dict(self.symbols)
        for node in graph.nodes:
            if node.target is torch.ops.aten._local_scalar_dense.default:
                found[node.meta[VAL].node.expr] = self._arriving(component(node))
        return Sizes(self.rows, found)

    def _arriving(self, of: str) -> int:
        for path, rows in self.rows.items():
            if is_inside(of, (path,)):
                return rows
        raise InternalCompilerError(f"no mixture of experts has the rows of {of or 'nothing'}")

    def number(self, size: int | torch.SymInt) -> int:
        """A size as a number."""
        if isinstance(size, int):
            return size
        return int(size.node.expr.xreplace(self.symbols))

    def shape(self, x: Tensor) -> tuple[int, ...]:
        """The shape of a fake tensor."""
        return tuple(self.number(size) for size in x.shape)

    def elements(self, node: fx.Node) -> int:
        """How many numbers a node computes, in all its results."""
        return sum(prod(self.shape(x)) for x in tensors(node))

    def bytes(self, node: fx.Node) -> int:
        """How many bytes it computes."""
        return sum(prod(self.shape(x)) * x.dtype.itemsize for x in tensors(node))

    def memory(self, nodes: Iterable[fx.Node]) -> dict[int, int]:
        """The pieces of memory that some values hold, and their bytes."""
        return {key: size for node in nodes for key, size in self.pieces(node).items()}

    def pieces(self, node: fx.Node) -> dict[int, int]:
        """The pieces of memory that one value holds, by an identity of each."""
        storages = (x.untyped_storage() for x in tensors(node))
        return {storage._cdata: self.number(storage.nbytes()) for storage in storages}

    def held_bytes(self, nodes: Iterable[fx.Node]) -> int:
        """How much memory some values hold together."""
        return sum(self.memory(nodes).values())


def tensors(node: fx.Node) -> Iterator[Tensor]:
    """The tensors of a node's value."""
    found = node.meta.get(VAL)
    for x in found if isinstance(found, list | tuple) else [found]:
        if isinstance(x, Tensor):
            yield x


def sizes_by_kind(reference: ReferenceModel, model: ModelSpec, mesh: Mesh) -> dict[str, Sizes]:
    """For every kind of region."""
    layers = layers_by_kind(reference.chain, model)
    tokens = reference.shape.tokens
    return {k: balanced(layers[k], tokens, mesh) if k in layers else Sizes() for k in reference.kinds}


def layers_by_kind(chain: Sequence[tuple[str, str]], model: ModelSpec) -> dict[str, Layer]:
    """A layer of each kind of region that is one."""
    kinds = (kind for at, kind in chain if at.startswith("layers."))
    return dict(zip(kinds, model.layers, strict=True))


def balanced(layer: Layer, tokens: int, mesh: Mesh) -> Sizes:
    """For a layer with `tokens` tokens a rank."""
    return Sizes(
        {
            call.path: balanced_rows(call.component, tokens, mesh)
            for call in layer.calls()
            if isinstance(call.component, Moe)
        }
    )


def balanced_rows(moe: Moe, tokens: int, mesh: Mesh) -> int:
    """The rows that arrive at a rank that has as many experts as any."""
    here = -(-moe.experts // mesh.expert)
    return tokens * moe.top_k * mesh.expert * here // moe.routed
