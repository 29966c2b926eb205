"""What a layer is made of, except the mixture of experts: norms, positions, attention, feed-forward
networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .origin import NOWHERE, Origin

NormWeight = Literal["scale", "offset", "none"]
"""The weight w multiplies as it is, as 1 + w, or there is none."""


@dataclass(frozen=True)
class RmsNorm:
    """Root mean square norm, x * w / sqrt(mean(x^2) + eps). Zhang and Sennrich, 2019."""

    eps: float
    weight: NormWeight = "scale"
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class LayerNorm:
    """(x - mean(x)) * w / sqrt(var(x) + eps) + b. Ba et al., 2016."""

    eps: float
    weight: NormWeight = "scale"
    bias: bool = True
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


Norm = RmsNorm | LayerNorm


# --- positions ---


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor`. Chen et al., 2023."""

    factor: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class DynamicNtk:
    """theta grown with the length S of a sequence beyond `original` tokens: by (factor * S / original -
    factor + 1)^(d / (d - 2))."""

    factor: float
    original: int
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class NtkAlpha:
    """theta times alpha^(d / (d - 2)), whatever the length."""

    alpha: float
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Yarn:
    """Low frequencies divided by `factor`, high ones kept, a ramp between. Peng et al., 2023.

    cos and sin are multiplied by `magnitude`; None means 0.1 ln(factor) + 1, or the quotient of that with
    `mscale` and
    with `mscale_all_dim` in the place of 0.1 / 0.1 where both are given. With `mscale_all_dim`, latent
    attention
    multiplies its scores by (0.1 mscale_all_dim ln(factor) + 1)^2, as DeepSeek does.
    """

    factor: float
    original: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    magnitude: float | None = None
    truncate: bool = True  # the ends of the ramp are whole dims
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Llama3Scaling:
    """Wavelengths beyond original / low_freq divided by `factor`, those below original / high_freq kept.
    Llama 3.1."""

    factor: float
    original: int
    low_freq: float = 1.0
    high_freq: float = 4.0
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class LongRope:
    """Every frequency divided by a factor of its own: `short` up to `original` tokens, `long` beyond. Ding
    et al., 2024.

    cos and sin are multiplied by `short_mscale` or `long_mscale`; None means sqrt(1 + ln(context / original)
    / ln(original)).
    """

    short: tuple[float, ...]
    long: tuple[float, ...]
    original: int
    short_mscale: float | None = None
    long_mscale: float | None = None
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


RopeScaling = LinearScaling | DynamicNtk | NtkAlpha | Yarn | Llama3Scaling | LongRope


@dataclass(frozen=True)
class Rope:
    """Rotary positions on the first `dims` dims of a head (None: all). Su et al., 2021.

    `half` pairs dim i with dim i + dims / 2, `interleaved` dim 2 i with dim 2 i + 1.
    """

    theta: float
    dims: int | None = None
    layout: Literal["half", "interleaved"] = "half"
    scaling: RopeScaling | None = None
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


# --- attention ---


@dataclass(frozen=True)
class QkNorm:
    """A norm of queries and keys: over each head, or over the full projected width; before or after rope."""

    norm: Norm
    over: Literal["head", "full"]
    after_rope: bool = False
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class LogTemperature:
    """Queries at position p multiplied by 1 + scale * ln(1 + floor((p + offset) / period)). Llama 4."""

    scale: float
    period: int  # tokens
    offset: int = 1
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class OutputGate:
    """The attention's output, before `o`, times act(linear(input)): one value an element, or one a head."""

    per: Literal["element", "head"]
    act: Literal["sigmoid", "softplus"] = "sigmoid"
    bias: bool = False
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Attend:
    """How queries look at keys, whatever made them. All kinds of attention share it."""

    window: int | None = None  # a query sees this many keys, itself included
    chunk: int | None = None  # a query sees the keys before it in its own chunk of this many positions
    sinks: bool = False  # one learned score a head, in the softmax, with no value
    softcap: float | None = None  # scores s become cap * tanh(s / cap)
    temperature: LogTemperature | None = None
    scale: float | None = None  # of the scores; None: 1 / sqrt(dims of a query)
    gate: OutputGate | None = None


@dataclass(frozen=True)
class Gqa:
    """Causal self-attention with grouped queries. Ainslie et al., 2023."""

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    rope: Rope | None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: QkNorm | None = None
    clip: float | None = None  # q, k and v are clamped to [-clip, clip] after a norm over the full width
    value_scale: float = 1.0
    attend: Attend = Attend()
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Mla:
    """Multi-head latent attention: queries, and keys with values, from low-rank latents. DeepSeek-V2, 2024.

    A head's query and key are `nope_dim` dims of their own and `rope_dim` rotated ones, whose key all heads
    share.
    `latent_scale`: latents multiplied by sqrt(width / rank) after their norm (LongCat-Flash).
    """

    heads: int
    q_rank: int | None  # None: queries straight from the input
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    rope: Rope | None
    norm: Norm  # of both latents
    bias: bool = False  # of q_down, kv_down and o
    latent_scale: bool = False
    attend: Attend = Attend()
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


# --- feed-forward networks ---

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


@dataclass(frozen=True)
class Ffn:
    """down(act(gate(x)) * (up(x) + offset)), or down(act(up(x))) without a gate. Shazeer, 2020.

    act(g) = g * sigmoid(alpha * g) for silu. `clamp`: the gate is clamped from above and `up` on both sides
    before the
    activation (gpt-oss); `clamp_after`: the activated gate from above and `up` on both sides.
    """

    width: int
    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    clamp: float | None = None
    clamp_after: float | None = None
    alpha: float = 1.0
    offset: float = 0.0
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)
