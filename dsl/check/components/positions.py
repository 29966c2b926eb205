"""Rotary positions: `rope: yarn(theta: 10_000, factor: 40, original: 4096)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import floor, log, sqrt

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.components.reading import Context, Read
from moec.dsl.check.values import is_none, real, whole, wrong_type
from moec.dsl.diagnostics import DiagnosticBag, Mistake
from moec.dsl.quantities import group

DEFAULT_THETA = 10_000.0


@dataclass(frozen=True)
class Rotated:
    """What positions apply to: `dims` of a head (None where they could not be read), called `name`.

    `latent`: the attention multiplies its scores by what `mscale_all_dim` says.
    """

    dims: int | None
    name: str
    latent: bool = False


def position(expr: s.Expr, context: Context, rotated: Rotated) -> m.Rope | None:
    """A position, or `none`."""
    if is_none(expr):
        return None
    construct, call = callee(expr, ("position",), "a position such as `rope(...)`, or `none`")
    read = Read(bind(construct, call, context.bag), context)
    dims = _dims(read, rotated)
    theta = read.real("theta", DEFAULT_THETA)
    scaling = _SCALINGS[construct.name](read, dims, rotated) if construct.name in _SCALINGS else None
    return m.Rope(
        theta,
        dims=None if dims == rotated.dims else dims,
        layout=read.word("layout", ("half", "interleaved"), "half"),
        scaling=scaling,
        origin=expr.span.origin(),
    )


# --- how many dims are rotated ---


def _dims(read: Read, rotated: Rotated) -> int | None:
    """By `dims` or `fraction`, else all; None where that is not known."""
    dims = read.args.read("dims", lambda e: whole(e, "dims", limits.HEAD_DIM, 1, read.context.scope), None)
    fraction = read.real("fraction", 1.0, high=1.0)
    if not read.args.sound("dims", "fraction"):
        return None
    if read.args.has("dims") and read.args.has("fraction"):
        label = "`dims` and `fraction` say the same in two ways"
        read.report(c.EXCLUDED, ("fraction",), label, "keep one of them")
    if dims is not None:
        return _checked_dims(read, dims, rotated)
    if rotated.dims is None:
        return None
    return _of_fraction(read, fraction, rotated.dims, rotated.name)


def _checked_dims(read: Read, dims: int, rotated: Rotated) -> int | None:
    if dims % 2:
        label = f"rope turns pairs of dims, and dims = {dims} is odd"
        read.report(c.BAD_POSITION, ("dims",), label, f"nearest: {_even(dims, rotated.dims)}")
    elif rotated.dims is not None and dims > rotated.dims:
        label = f"dims = {dims} is more than the {rotated.name} = {rotated.dims} there are"
        read.report(c.BAD_POSITION, ("dims",), label, f"at most {rotated.dims - rotated.dims % 2}")
    else:
        return dims
    return None


def _even(dims: int, most: int | None) -> str:
    near = [d for d in (dims - 1, dims + 1) if d >= 2 and (most is None or d <= most)]
    return ", ".join(map(str, near)) or "2"


def _of_fraction(read: Read, fraction: float, head: int, name: str) -> int | None:
    dims = floor(head * fraction)
    if dims >= 2 and dims % 2 == 0:
        return dims
    if not read.args.has("fraction"):
        return None  # the attention reports a head of odd size
    label = f"fraction = {fraction:g} of {name} = {head} is {dims} dims, and rope turns pairs of them"
    advice = f"give the count, such as `dims: {max(2, dims - dims % 2)}`"
    read.report(c.BAD_POSITION, ("fraction",), label, advice)
    return None


# --- scaling ---


def _factor(read: Read) -> float:
    return read.real("factor", 1.0, low=1.0, low_open=False)


def _linear(read: Read, dims: int | None, rotated: Rotated) -> m.LinearScaling:
    return m.LinearScaling(_factor(read), origin=read.origin)


def _dynamic(read: Read, dims: int | None, rotated: Rotated) -> m.DynamicNtk:
    _check_exponent(read, dims)
    return m.DynamicNtk(_factor(read), read.tokens("original", 1), origin=read.origin)


def _ntk(read: Read, dims: int | None, rotated: Rotated) -> m.NtkAlpha:
    _check_exponent(read, dims)
    return m.NtkAlpha(read.real("alpha", 1.0), origin=read.origin)


def _check_exponent(read: Read, dims: int | None) -> None:
    if dims == 2:
        label = "theta grows by the power dims / (dims - 2), so there must be more than 2 rotated dims"
        read.report(c.BAD_POSITION, ("dims", "fraction"), label)


def _yarn(read: Read, dims: int | None, rotated: Rotated) -> m.Yarn:
    factor, original = _factor(read), read.tokens("original", 1)
    fast, slow = read.real("beta_fast", 32.0), read.real("beta_slow", 1.0)
    if fast < slow:
        label = f"the ramp goes from beta_fast = {fast:g} turns down to beta_slow = {slow:g}"
        read.report(c.BAD_POSITION, ("beta_fast", "beta_slow"), label, "beta_fast must not be the smaller")
    _check_theta(read)
    mscale, all_dim = read.maybe_real("mscale"), read.maybe_real("mscale_all_dim")
    _check_mscale(read, mscale, all_dim, rotated)
    return m.Yarn(
        factor,
        original,
        beta_fast=fast,
        beta_slow=slow,
        mscale=mscale,
        mscale_all_dim=all_dim,
        magnitude=_magnitude(read, factor, mscale),
        truncate=read.flag("truncate", default=True),
        origin=read.origin,
    )


def _check_theta(read: Read) -> None:
    theta = read.real("theta", DEFAULT_THETA)
    if theta <= 1.0:
        label = f"yarn takes the logarithm of theta = {theta:g} as a divisor"
        read.report(c.BAD_POSITION, ("theta",), label, "theta must be more than 1")


def _check_mscale(read: Read, mscale: float | None, all_dim: float | None, rotated: Rotated) -> None:
    if mscale is not None and all_dim is None:
        label = "`mscale` is divided by `mscale_all_dim`, which is not given"
        read.report(c.NO_EFFECT, ("mscale",), label, "give both, or the result as `magnitude`")
    if all_dim is not None and mscale is None and not rotated.latent:
        label = "alone, `mscale_all_dim` multiplies the scores of `mla` only"
        read.report(c.NO_EFFECT, ("mscale_all_dim",), label, "give `mscale` as well, or `magnitude`")


def default_magnitude(factor: float) -> float:
    """What yarn multiplies cos and sin by, if nothing else is said."""
    return 0.1 * log(factor) + 1.0


def _magnitude(read: Read, factor: float, mscale: float | None) -> float | None:
    """None for the default."""
    if not read.args.has("magnitude"):
        return None
    if mscale is not None:
        label = "`mscale` and `mscale_all_dim` give the magnitude already"
        read.report(c.EXCLUDED, ("magnitude",), label, "keep `magnitude`, or `mscale`")
    magnitude = read.real("magnitude", 1.0)
    return None if magnitude == default_magnitude(factor) else magnitude


def _llama3(read: Read, dims: int | None, rotated: Rotated) -> m.Llama3Scaling:
    factor, original = _factor(read), read.tokens("original", 1)
    low, high = read.real("low_freq", 1.0), read.real("high_freq", 4.0)
    if high < low:
        label = f"wavelengths go from original / high_freq = {high:g} up to original / low_freq = {low:g}"
        read.report(c.BAD_POSITION, ("high_freq", "low_freq"), label, "high_freq must not be the smaller")
    return m.Llama3Scaling(factor, original, low, high, origin=read.origin)


# --- a factor for every frequency ---


def _longrope(read: Read, dims: int | None, rotated: Rotated) -> m.LongRope:
    short, long = read.value("short", _factors, ()), read.value("long", _factors, ())
    for name, factors in (("short", short), ("long", long)):
        if dims is not None and len(factors) != dims // 2:
            label = f"{len(factors)} factors for {dims} rotated dims, which have {dims // 2} frequencies"
            read.report(c.BAD_POSITION, (name,), label)
    original = read.tokens("original", 2, low=2)
    default = default_mscale(_context(read.context), original)
    short_mscale = _mscale(read, "short_mscale", default)
    long_mscale = _mscale(read, "long_mscale", default)
    return m.LongRope(short, long, original, short_mscale, long_mscale, origin=read.origin)


def _factors(expr: s.Expr, context: Context) -> tuple[float, ...]:
    listed = context.scope.resolve(expr)
    if not isinstance(listed, s.ListOf):
        raise wrong_type(expr, "a list of numbers, one a frequency")
    if len(listed.items) > limits.LIST_ITEMS:
        raise Mistake(c.TOO_LARGE.at(expr.span, f"a list has at most {group(limits.LIST_ITEMS)} items"))
    return tuple(real(item, "factor", scope=context.scope) for item in listed.items)


def _context(context: Context) -> int | None:
    """The longest sequence of the model; None where it could not be read."""
    size = context.scope.values.get("context")
    if size is None:
        return None
    return DiagnosticBag().attempt(whole, size, "context", limits.CONTEXT, prefix_of_tokens=True)


def default_mscale(context: int | None, original: int) -> float | None:
    """What longrope multiplies cos and sin by, if nothing else is said; None if it is not known."""
    if context is None:
        return None
    return sqrt(1 + log(context / original) / log(original)) if context > original else 1.0


def _mscale(read: Read, name: str, default: float | None) -> float | None:
    """None for the default."""
    if not read.args.has(name):
        return None
    given = read.real(name, 1.0)
    return None if given == default else given


_SCALINGS: Mapping[str, Callable[[Read, int | None, Rotated], m.RopeScaling]] = {
    "linear_rope": _linear,
    "dynamic_rope": _dynamic,
    "ntk_rope": _ntk,
    "yarn": _yarn,
    "llama3_rope": _llama3,
    "longrope": _longrope,
}
