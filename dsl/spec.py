"""`ModelSpec` and its neighbours: what a checked `.moe` file means.

Everything here is frozen, typed and complete: every default is filled in, every name is resolved, every size
is known to be legal. Later stages read these classes and never the syntax tree.

Each node carries the `Origin` it came from. Origins do not take part in equality, so two layers that compute
the same thing compare equal wherever they were written; the compiler uses that to compile each kind of layer
once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

DType = Literal["fp32", "bf16", "fp64"]


@dataclass(frozen=True)
class Origin:
    """A place in a user's file, short enough to travel through graphs and bundles."""

    file: str
    line: int  # from 1
    text: str = ""  # the line itself, stripped

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


NOWHERE = Origin("<none>", 0)


# --- components: each maps rows (T, width) to rows (T, width) ---


@dataclass(frozen=True)
class RmsNorm:
    """Root mean square norm, x * w / sqrt(mean(x^2) + eps). Zhang and Sennrich, 2019."""

    eps: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Rope:
    """Rotary positions on all of a head's dims, first half against second half. Su et al., 2021."""

    theta: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class QkNorm:
    """A norm of queries and keys before rope: over each head, or over the full projected width."""

    eps: float
    over: Literal["head", "full"]
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Gqa:
    """Causal self-attention with grouped queries. Ainslie et al., 2023."""

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    qkv_bias: bool = False
    qk_norm: QkNorm | None = None
    clip: float | None = None  # q, k and v are clamped to [-clip, clip] after their norm
    window: int | None = None  # a query sees this many keys, itself included
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class SwiGlu:
    """down(silu(gate(x)) * up(x)), no biases. Shazeer, 2020."""

    width: int
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


# --- a router is a pipeline of stages, in the order they happen ---


@dataclass(frozen=True)
class Softmax:
    """Probabilities over all experts."""

    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Top:
    """The k best-scored experts of each token."""

    k: int
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Renormalize:
    """Weights of the chosen experts divided by their sum."""

    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


RouterStage = Softmax | Top | Renormalize


@dataclass(frozen=True)
class AuxLoss:
    """Load-balancing loss E * sum_e f_e p_e (Fedus et al., 2021, eq. 4), as a term of the training objective.

    f_e: choices of expert e per token (sums to k), p_e: mean router probability, both over the tokens of a
    global micro-batch. `per = "model"` pools the tokens of all MoE layers first, as transformers does; `per =
    "layer"` takes the loss of every layer and adds them, as the paper does.
    """

    coefficient: float
    per: Literal["model", "layer"] = "model"
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class ZLoss:
    """mean over tokens of logsumexp(router logits)^2, added over layers. Zoph et al., 2022, eq. 5."""

    coefficient: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


BalanceTerm = AuxLoss | ZLoss


@dataclass(frozen=True)
class SharedExpert:
    """An FFN every token passes, added to the routed output.

    With `gate`, times the sigmoid of a linear of the input.
    """

    ffn: SwiGlu
    gate: bool = False
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Moe:
    """A mixture of experts: a linear router, its pipeline, and `experts` FFNs of one shape."""

    experts: int
    expert: SwiGlu
    router: tuple[RouterStage, ...]
    balance: tuple[BalanceTerm, ...] = ()
    shared: SharedExpert | None = None
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    @property
    def top_k(self) -> int:
        """How many experts a token uses."""
        return next(stage.k for stage in self.router if isinstance(stage, Top))


Component = RmsNorm | Gqa | SwiGlu | Moe


# --- a layer is a list of equations over the residual stream ---


@dataclass(frozen=True)
class Var:
    """The value of a name: `x`."""

    name: str
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Call:
    """A component applied to a value. `path` prefixes the names of its parameters, e.g. `attention.norm`."""

    path: str
    component: Component
    argument: Expression
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


Expression = Var | Call


@dataclass(frozen=True)
class Equation:
    """`target += value` (a residual branch) or `target = value`."""

    target: str
    add: bool
    value: Expression
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Layer:
    """One layer with every `match` decided. Layers of one kind are equal."""

    equations: tuple[Equation, ...]
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Head:
    """`logits = linear(norm(x))`: the value the output projection takes; its matrix is named `logits`."""

    argument: Expression
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class ModelSpec:
    """What is computed, and nothing about machines."""

    name: str
    vocab: int
    width: int
    context: int  # the longest sequence, in tokens
    layers: tuple[Layer, ...]
    head: Head
    init_std: float = 0.02  # matrices are drawn from a normal distribution of this deviation
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


# --- where it runs, in what form, how it is trained ---


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
    replicate_given: bool = field(default=False, compare=False)
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)
    origins: tuple[tuple[str, Origin], ...] = field(default=(), compare=False, repr=False)

    def at(self, *names: str) -> Origin:
        """Where the first of these degrees was given that was; the place of the block if none was."""
        given = dict(self.origins)
        return next((given[name] for name in names if name in given), self.origin)


@dataclass(frozen=True)
class PrecisionSpec:
    """Number formats: of compute, of parameters and optimizer state, of gradient sums, and of the router."""

    compute: DType = "fp32"
    params: DType = "fp32"
    reduce: DType = "fp32"
    router: DType = "fp32"
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class MemorySpec:
    """`recompute`: what backward computes again instead of keeping it from forward."""

    recompute: Literal["none", "full"] = "none"
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
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    @property
    def batch_sequences(self) -> int:
        """Sequences of the global batch."""
        return self.batch_tokens // self.sequence


@dataclass(frozen=True)
class Spec:
    """A whole checked file, `use`d files included.

    `text` is its resolved source, overrides applied: one self-contained `.moe` text.
    """

    model: ModelSpec
    parallel: ParallelSpec
    precision: PrecisionSpec
    memory: MemorySpec
    train: TrainSpec
    checkpoint: Checkpoint | None
    text: str


# --- the weight map ---


ConfigValue = str | int | float | bool | None | tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True)
class ConfigEntry:
    """One key of a published `config.json`: bound to paths of the model, or expected to hold a constant.

    `keys` are spellings of the same fact, the one to write first (dots descend into objects). A file may lack
    a key that holds a constant; one bound to `paths` must be there unless `has_default`, and is then taken as
    `default`. `per_layer`: the constant stands once for every layer, in a list.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...] = ()
    constant: ConfigValue = None
    has_default: bool = False
    default: ConfigValue = None
    per_layer: bool = False
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Checkpoint:
    """`checkpoint huggingface`: parameter name -> tensor name, proved a bijection by the checker.

    `tensors` holds one entry per parameter of the model, all layers and experts spelled out.
    """

    tensors: tuple[tuple[str, str], ...]
    config: tuple[ConfigEntry, ...] = ()
    config_ignored: tuple[str, ...] = ()  # keys of a config.json that do not change what is computed
    ignored: tuple[
        str, ...
    ] = ()  # tensors of the published checkpoint that are not imported; `{}` matches a number
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)
