"""The training state of a rank: its shards of parameters, gradients and optimizer moments, and nothing else.

Parameters are drawn by the slice: every rank makes exactly the elements it owns, from the seed, the
parameter's name and their index, so the model is the same at every degree and no rank ever holds more of it
than its shards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from .abi.buffers import Buffer, Piece, pieces, with_part
from .abi.bundle import STATE_PARTS, Manifest
from .abi.dtypes import DTYPES
from .abi.mesh import Mesh
from .draw import normal
from .written import Written


class TrainState:
    """Shards (shard_numel,) by part (`STATE_PARTS`) and state name (`layers.3/matrices`), zero at first.

    What is not trained has the first part only. `dtype` is that of parameters and gradients; `moments`, if it
    is another, that of the others. `dtypes` has them by part. Without all `parts`, it is not for training.

    Who fills parameters notes in `written` what. `passed_over` counts batches of the run's order that no step
    takes: the step after `n` others takes batch `n + passed_over`.
    """

    def __init__(
        self,
        buffers: Mapping[str, Buffer],
        mesh: Mesh,
        rank: int,
        dtype: torch.dtype,
        device: torch.device,
        moments: torch.dtype | None = None,
        parts: tuple[str, ...] = STATE_PARTS,
    ) -> None:
        self.passed_over = 0
        self.written = Written()
        self.buffers, self.mesh, self.rank, self.dtype = dict(buffers), mesh, rank, dtype
        self.dtypes = dict.fromkeys(STATE_PARTS[:2], dtype) | dict.fromkeys(STATE_PARTS[2:], moments or dtype)
        self.parts: dict[str, dict[str, Tensor]] = {
            part: {
                name: torch.zeros(buffer.shard_numel, dtype=self.dtypes[part], device=device)
                for name, buffer in with_part(part, self.buffers).items()
            }
            for part in parts
        }

    @property
    def parameters(self) -> dict[str, Tensor]:
        """The parameter shards."""
        return self.parts["parameter"]

    @property
    def gradients(self) -> dict[str, Tensor]:
        """The gradient shards."""
        return self.parts["gradient"]

    def arguments(self) -> list[Tensor]:
        """All shards, in the order that the step program takes them."""
        return [shard for shards in self.parts.values() for shard in shards.values()]

    def bytes_by_part(self) -> dict[str, int]:
        """How many bytes this rank holds of each part."""
        return {part: sum(t.nbytes for t in shards.values()) for part, shards in self.parts.items()}

    def pieces(self, name: str) -> Iterator[Piece]:
        """What this rank's shard of one state holds."""
        return pieces(self.buffers[name], parameter_prefix(name), self.mesh, self.rank)

    def notes_of(self, name: str) -> Callable[[Piece, int, int], None]:
        """Takes what was written of one state: a piece, and how many of its elements from which on."""
        return partial(self.written.add, name)

    def draw(self, seed: int, std: float) -> None:
        """Initialise the parameters: matrices normal(0, std), norms one, biases zero; padding stays zero."""
        for name, shard in self.parameters.items():
            for piece in self.pieces(name):
                part = shard[piece.offset : piece.offset + piece.count]
                if piece.init == "normal":
                    part.copy_(normal(seed, piece.name, piece.start, piece.count, std, self.dtype))
                else:
                    part.fill_(1.0 if piece.init == "ones" else 0.0)
                self.written.add(name, piece, 0, piece.count)


def parameter_prefix(state: str) -> str:
    """`layers.3/matrices` -> `layers.3`; embedding and head have none."""
    instance = state.partition("/")[0]
    return instance if instance.startswith("layers.") else ""


def make_state(manifest: Manifest, rank: int, device: torch.device) -> TrainState:
    """The state of `rank`, all zero."""
    dtype, moments = DTYPES[manifest.dtype], DTYPES[manifest.moments]
    return TrainState(manifest.states(), manifest.mesh, rank, dtype, device, moments)


def make_parameters(manifest: Manifest, rank: int, device: torch.device) -> TrainState:
    """The parameters of `rank` alone, all zero: what evaluation needs."""
    dtype = DTYPES[manifest.dtype]
    return TrainState(manifest.states(), manifest.mesh, rank, dtype, device, parts=STATE_PARTS[:1])
