"""Where a model runs, in what form, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .data import Documents, Evaluated
from .origin import NOWHERE, Origin

DType = Literal["fp32", "bf16", "fp64"]


@dataclass(frozen=True)
class Dispatch:
    """How tokens reach the ranks of their experts, within an expert group.

    `all_to_all` sends every token to the ranks that it chose; `all_gather` gives all tokens to all ranks, and
    sums what each has for a token. With `shuffle`, tokens are spread over the ranks of the group first.
    """

    by: Literal["all_to_all", "all_gather"] = "all_to_all"
    shuffle: bool = False
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{self.by}{'(shuffle: true)' * self.shuffle}"


@dataclass(frozen=True)
class ParallelSpec:
    """Degrees as written; `None` is `rest`.

    `expert_shard = None` means what `expert` leaves of a shard group. Where `replicate` was not given, it is
    1, or what is left of the ranks if their number is given from outside.
    """

    expert: int | None = 1
    shard: int | None = 1
    replicate: int | None = 1
    expert_shard: int | None = None
    dispatch: Dispatch = field(default_factory=Dispatch)
    replicate_given: bool = field(default=False, compare=False)
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)
    origins: tuple[tuple[str, Origin], ...] = field(default=(), compare=False, repr=False)

    def at(self, *names: str) -> Origin:
        """Where the first of these degrees was given that was; the place of the block if none was."""
        given = dict(self.origins)
        return next((given[name] for name in names if name in given), self.origin)


@dataclass(frozen=True)
class PrecisionSpec:
    """Number formats of a step.

    `compute`: matrices, activations and their gradients. `params`: the parameters that the optimizer changes,
    and the gradients that it sees. `reduce`: sums of gradients over ranks. `router`: the product of tokens
    with a router's matrix. `optimizer`: the moments of gradients. Norms, softmax, a router's scores, losses
    and statistics are in fp32, or in fp64 where all is.
    """

    compute: DType = "fp32"
    params: DType = "fp32"
    reduce: DType = "fp32"
    router: DType = "fp32"
    optimizer: DType = "fp32"
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class AdamW:
    """Decoupled weight decay, on matrices only. Loshchilov and Hutter, 2019."""

    lr: float = 3e-4
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.1
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Cosine:
    """Linear from 0 to 1 over `warmup` steps, then half a cosine down to `floor`, as factors of lr."""

    warmup: int = 0
    floor: float = 0.0
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Constant:
    """Linear from 0 to 1 over `warmup` steps, then 1."""

    warmup: int = 0
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


Schedule = Cosine | Constant


@dataclass(frozen=True)
class Checkpointing:
    """The training state is saved `every` so many steps and at the end; the newest `keep` stay."""

    every: int = 1000
    keep: int = 3


@dataclass(frozen=True)
class OnNonfinite:
    """What happens where a loss or the norm is not finite; `most` times, 0 for `stop`."""

    kind: Literal["stop", "skip", "rewind"] = "stop"
    most: int = 0
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class OnSpike:
    """What happens where the loss exceeds `factor` times its running median; `most` times, 0 for no limit."""

    kind: Literal["none", "warn", "skip", "rewind"] = "none"
    factor: float = 3.0
    most: int = 0
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class TrainSpec:
    """`batch_tokens` counts tokens of the global batch; it is a multiple of `sequence`.

    Exactly one of `steps` and `epochs` is set. With `epochs`, the last batch holds what is left of the data.
    `micro_batches` splits the global batch, whatever the layout; auxiliary losses are taken per global micro-
    batch.
    """

    sequence: int
    batch_tokens: int
    steps: int | None
    epochs: int | None = None
    micro_batches: int = 1
    optimizer: AdamW = field(default_factory=AdamW)
    schedule: Schedule = field(default_factory=Cosine)
    clip: float | None = 1.0
    seed: int = 0
    checkpoint: Checkpointing | None = None
    nonfinite: OnNonfinite = field(default_factory=OnNonfinite)
    spike: OnSpike = field(default_factory=OnSpike)
    documents: Documents = "joined"
    validation: Evaluated | None = None
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    @property
    def batch_sequences(self) -> int:
        """Sequences of the global batch."""
        return self.batch_tokens // self.sequence
