"""The manifest of a bundle: everything about it but its programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .buffers import Buffer, state_name
from .dtypes import DtypeName
from .mesh import Mesh

FORMAT = "moec bundle"
VERSION = 3


@dataclass(frozen=True)
class Schedule:
    """The learning rate over steps: `kind`, warm-up steps, and the floor of a cosine as a factor of `lr`."""

    kind: Literal["cosine", "constant"]
    warmup: int
    floor: float


@dataclass(frozen=True)
class Checkpointing:
    """The training state is saved `every` so many steps and at the end; the newest `keep` stay."""

    every: int
    keep: int


@dataclass(frozen=True)
class Validation:
    """Held-out data is evaluated after every `every` steps and the last, over `batches` batches."""

    every: int
    batches: int


@dataclass(frozen=True)
class OnNonfinite:
    """What happens where a loss or the norm is not finite, at most `most` times."""

    kind: Literal["stop", "skip", "rewind"]
    most: int


@dataclass(frozen=True)
class OnSpike:
    """What happens where the loss exceeds `factor` times its running median, at most `most` times."""

    kind: Literal["none", "warn", "skip", "rewind"]
    factor: float
    most: int


@dataclass(frozen=True)
class Training:
    """What a run needs to know beside its programs. Exactly one of `steps` and `epochs` is set."""

    sequence: int
    batch_sequences: int
    micro_batches: int
    steps: int | None
    epochs: int | None
    lr: float
    schedule: Schedule
    seed: int
    documents: Literal["joined", "separate"]
    validation: Validation | None
    checkpoint: Checkpointing | None
    nonfinite: OnNonfinite
    spike: OnSpike


@dataclass(frozen=True)
class Toolchain:
    """What made the bundle. torch's version counts: programs name its operations."""

    moec: str
    torch: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle but its programs."""

    format: str
    version: int
    toolchain: Toolchain
    model: str
    vocab: int
    context: int
    parameters: int
    active_parameters: int
    flops_per_token: int  # that the model needs, forward and backward, for a token of a full sequence
    init_std: float
    dtype: Literal["float32", "float64"]  # of shards of parameters and gradients
    compute: DtypeName  # of the products of matrices
    moments: DtypeName  # of those of the optimizer's moments
    sequences: int  # of one rank's micro-batch
    mesh: Mesh
    training: Training
    chain: tuple[tuple[str, str], ...]  # (instance, region kind), embedding to head
    buffers: dict[str, tuple[Buffer, ...]]  # by region kind
    losses: tuple[str, ...]  # of the step's first result: losses, then `<moe>.entropy`
    loads: tuple[tuple[str, int], ...]  # of its second: (name, numbers) of `<moe>.load`, `<moe>.dropped`
    options: dict[str, str]
    facts: dict[str, str]  # values of model and training by path, as `--set` has them
    files: dict[str, str]  # name -> SHA-256

    @property
    def world(self) -> int:
        """How many ranks the bundle is for."""
        return self.mesh.world

    def states(self) -> dict[str, Buffer]:
        """State name -> buffer, in the order that `step` takes them."""
        return {state_name(at, b): b for at, kind in self.chain for b in self.buffers[kind]}
