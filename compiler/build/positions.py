"""Rotary positions -> the frequencies and the magnitude of their rotation, in float64, at compile time.

What depends on the length of a sequence, or on the context of the model, is settled here: a program is for
sequences of one length.

Legend: S tokens of a sequence, d rotated dims, theta the base: frequency i is theta^(-2 i / d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import fx

from moec.compiler import model_ops
from moec.compiler.errors import CompileError
from moec.dsl.spec import (
    DynamicNtk,
    LinearScaling,
    Llama3Scaling,
    LongRope,
    NtkAlpha,
    Rope,
    RopeScaling,
    Yarn,
)

from .scope import LayerScope


@dataclass(frozen=True)
class Rotation:
    """Radians a position turns each pair of dims by, and what their length is multiplied by."""

    frequencies: tuple[float, ...]
    magnitude: float


def build_rope(scope: LayerScope, x: fx.Node, rope: Rope, dims: int, start: int = 0) -> fx.Node:
    """(B, S, H, d) -> the same, `dims` of it from `start` on rotated, or those of them that `rope` names."""
    found = rotation(rope, rope.dims or dims, scope.sequence, scope.context)
    options: dict[str, object] = {}
    if found.magnitude != 1.0:
        options["magnitude"] = found.magnitude
    if rope.layout == "interleaved":
        options["interleaved"] = True
    if start:
        options["start"] = start
    if (positions := scope.positions(rope.origin)) is not None:
        options["positions"] = positions
    return scope.call(model_ops.rope, x, found.frequencies, at=rope.origin, **options)


def rotation(rope: Rope, dims: int, sequence: int, context: int) -> Rotation:
    """For sequences of `sequence` tokens, in a model for `context` of them.

    Raises CompileError if the numbers of `rope` give no finite frequencies.
    """
    try:
        frequencies = _frequencies(rope, dims, sequence)
        magnitude = _magnitude(rope.scaling, sequence, context)
    except (ArithmeticError, ValueError) as error:
        raise CompileError(f"these positions have no frequencies: {error}", rope.origin) from error
    if not all(math.isfinite(number) for number in (*frequencies, magnitude)):
        raise CompileError("these positions have frequencies that are no finite numbers", rope.origin)
    return Rotation(frequencies, magnitude)


def score_factor(rope: Rope | None) -> float:
    """What latent attention multiplies its scores by besides. DeepSeek-V2, 2024."""
    if rope is None or not isinstance(rope.scaling, Yarn) or rope.scaling.mscale_all_dim is None:
        return 1.0
    return _yarn_mscale(rope.scaling.factor, rope.scaling.mscale_all_dim) ** 2


def _frequencies(rope: Rope, dims: int, sequence: int) -> tuple[float, ...]:
    plain = _powers(rope.theta, dims)
    match rope.scaling:
        case None:
            return plain
        case LinearScaling(factor):
            return tuple(f / factor for f in plain)
        case DynamicNtk(factor, original):
            growth = factor * max(sequence, original) / original - factor + 1
            return _powers(_grown(rope.theta, growth, dims), dims)
        case NtkAlpha(alpha):
            return _powers(_grown(rope.theta, alpha, dims), dims)
        case Yarn() as yarn:
            return _yarn(plain, yarn, rope.theta)
        case Llama3Scaling() as scaling:
            return tuple(_llama3(f, scaling) for f in plain)
        case LongRope(short, long, original):
            factors = long if sequence > original else short
            return tuple(f / factor for f, factor in zip(plain, factors, strict=True))


def _powers(theta: float, dims: int) -> tuple[float, ...]:
    return tuple(theta ** (-2 * i / dims) for i in range(dims // 2))


def _grown(theta: float, growth: float, dims: int) -> float:
    """Such that the slowest frequency slows down by `growth`, and the fastest stays. A single one stays."""
    return theta * growth ** (dims / (dims - 2)) if dims > 2 else theta


def _yarn(plain: tuple[float, ...], yarn: Yarn, theta: float) -> tuple[float, ...]:
    """Peng et al., 2023, section 3.2: a ramp over the pairs, from the one that turns beta_fast times within
    `original` tokens, whose frequency stays, to the one that turns beta_slow times: divided by `factor`."""
    dims = 2 * len(plain)

    def pair_of(turns: float) -> float:
        return dims * math.log(yarn.original / (2 * math.pi * turns)) / (2 * math.log(theta))

    low, high = pair_of(yarn.beta_fast), pair_of(yarn.beta_slow)
    if yarn.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dims - 1)
    span = high - low or 0.001  # a step instead of a ramp, where both ends are one pair

    def slowed(i: int, frequency: float) -> float:
        share = min(max((i - low) / span, 0.0), 1.0)
        return frequency * (1 - share) + frequency / yarn.factor * share

    return tuple(slowed(i, frequency) for i, frequency in enumerate(plain))


def _llama3(frequency: float, scaling: Llama3Scaling) -> float:
    """By how often a pair turns over `original` tokens: kept from high_freq on, divided below low_freq."""
    turns = scaling.original * frequency / (2 * math.pi)
    ramp = scaling.high_freq - scaling.low_freq
    kept = (turns - scaling.low_freq) / ramp if ramp else float(turns >= scaling.low_freq)
    share = min(max(kept, 0.0), 1.0)
    return frequency * share + frequency / scaling.factor * (1 - share)


def _magnitude(scaling: RopeScaling | None, sequence: int, context: int) -> float:
    match scaling:
        case Yarn():
            return _yarn_magnitude(scaling)
        case LongRope(original=original, short_mscale=short, long_mscale=long):
            given = long if sequence > original else short
            return _longrope_mscale(context, original) if given is None else given
        case _:
            return 1.0


def _yarn_magnitude(yarn: Yarn) -> float:
    if yarn.magnitude is not None:
        return yarn.magnitude
    if yarn.mscale is None or yarn.mscale_all_dim is None:
        return _yarn_mscale(yarn.factor, 1.0)
    return _yarn_mscale(yarn.factor, yarn.mscale) / _yarn_mscale(yarn.factor, yarn.mscale_all_dim)


def _yarn_mscale(factor: float, weight: float) -> float:
    """Peng et al., 2023, eq. 22; DeepSeek weighs the logarithm."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _longrope_mscale(context: int, original: int) -> float:
    """Ding et al., 2024: a longer context than the original one needs larger scores."""
    return math.sqrt(1 + math.log(context / original) / math.log(original)) if context > original else 1.0
