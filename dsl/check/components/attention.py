"""Attention: grouped queries, latents, and what both share."""

from __future__ import annotations

from math import sqrt

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments, bind, callee
from moec.dsl.check.components.norms import DEFAULT_RMS_EPS, norm
from moec.dsl.check.components.positions import DEFAULT_THETA, Rotated, position
from moec.dsl.check.components.reading import Context, Read
from moec.dsl.check.components.sizes import divisors_near
from moec.dsl.check.values import is_none
from moec.dsl.diagnostics import Mistake

# --- grouped queries ---


def gqa(args: Arguments, context: Context) -> m.Gqa:
    """`gqa(...)`."""
    read = Read(args, context)
    heads = read.whole("heads", limits.HEADS, 1)
    kv_heads = read.whole("kv_heads", limits.HEADS, heads)
    if heads % kv_heads:
        _report_kv_heads(read, heads, kv_heads)
    head_dim = _head_dim(read, heads)
    sized = head_dim if args.sound("head_dim", "heads") else None
    return m.Gqa(
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=read.whole("value_dim", limits.HEAD_DIM, head_dim),
        rope=_rope(read, Rotated(sized, "head_dim"), ("head_dim", "heads")),
        qkv_bias=read.flag("qkv_bias"),
        out_bias=read.flag("out_bias"),
        qk_norm=read.value("qk_norm", _qk_norm, None),
        clip=read.maybe_real("clip"),
        value_scale=read.real("value_scale", 1.0),
        attend=_attend(read, head_dim),
        origin=read.origin,
    )


def _report_kv_heads(read: Read, heads: int, kv_heads: int) -> None:
    legal = ", ".join(map(str, divisors_near(heads, kv_heads)))
    label = f"heads = {heads} is not a multiple of kv_heads = {kv_heads}"
    read.report(c.NOT_DIVISIBLE, ("kv_heads", "heads"), label, f"nearest kv_heads: {legal}")


def _head_dim(read: Read, heads: int) -> int:
    if read.args.has("head_dim"):
        return read.whole("head_dim", limits.HEAD_DIM, 2)
    dim = read.args.bag.attempt(_default_head_dim, read.args, read.context.width, heads)
    if dim is None:
        read.args.faults.add("head_dim")
    return dim or 2


def _default_head_dim(args: Arguments, width: int | None, heads: int) -> int | None:
    """None where a fault elsewhere leaves it open."""
    if width is None or not args.sound("heads"):
        return None
    if width % heads:
        label = f"head_dim is width / heads, and width = {width} is not a multiple of heads = {heads}"
        advice = "give `head_dim`, or change `heads`"
        raise Mistake(c.NOT_DIVISIBLE.at(args.span_of("heads"), label, advice=advice))
    return width // heads


def _rope(read: Read, rotated: Rotated, sizes: tuple[str, ...]) -> m.Rope | None:
    """The argument `rope`; `sizes` are the arguments that say how many dims there are."""
    default = m.Rope(DEFAULT_THETA, origin=read.origin)
    rope = read.value("rope", lambda e, context: position(e, context, rotated), default)
    odd = rotated.dims is not None and rotated.dims % 2
    if odd and rope is not None and rope.dims is None and read.args.sound("rope"):
        label = f"rope turns pairs of dims, and {rotated.name} = {rotated.dims} is odd"
        read.report(c.NOT_DIVISIBLE, sizes, label, "make it even, or rotate some of them: `rope(dims: N)`")
    return rope


# --- latents ---


def mla(args: Arguments, context: Context) -> m.Mla:
    """`mla(...)`."""
    read = Read(args, context)
    nope, rope = read.whole("nope_dim", limits.HEAD_DIM, 2), read.whole("rope_dim", limits.HEAD_DIM, 2)
    sized = rope if args.sound("rope_dim") else None
    return m.Mla(
        heads=read.whole("heads", limits.HEADS, 1),
        q_rank=read.maybe_whole("q_rank", limits.WIDTH),
        kv_rank=read.whole("kv_rank", limits.WIDTH, 1),
        nope_dim=nope,
        rope_dim=rope,
        value_dim=read.whole("v_dim", limits.HEAD_DIM, 1),
        rope=_rope(read, Rotated(sized, "rope_dim", latent=True), ("rope_dim",)),
        norm=read.value("norm", norm, m.RmsNorm(DEFAULT_RMS_EPS, origin=read.origin)),
        bias=read.flag("bias"),
        latent_scale=read.flag("latent_scale"),
        attend=_attend(read, nope + rope),
        origin=read.origin,
    )


# --- what both share ---


def _attend(read: Read, query_dims: int) -> m.Attend:
    window, chunk = read.maybe_tokens("window"), read.maybe_tokens("chunk")
    if window is not None and chunk is not None:
        label = "a query sees a window of keys or its own chunk of them, not both"
        read.report(c.EXCLUDED, ("chunk", "window"), label)
    return m.Attend(
        window=window,
        chunk=chunk,
        sinks=read.flag("sinks"),
        softcap=read.maybe_real("softcap"),
        temperature=read.value("temperature", _temperature, None),
        scale=_scale(read, query_dims),
        gate=read.value("gate", _gate, None),
    )


def _scale(read: Read, query_dims: int) -> float | None:
    """None for the default, also where it is written out."""
    if not read.args.has("scale"):
        return None
    scale = read.real("scale", 1.0)
    return None if scale == 1 / sqrt(query_dims) else scale


def _qk_norm(expr: s.Expr, context: Context) -> m.QkNorm | None:
    if is_none(expr):
        return None
    construct, call = callee(expr, ("qk_norm",), "`per_head(norm)`, `full_width(norm)` or `none`")
    read = Read(bind(construct, call, context.bag), context)
    made = read.value("norm", norm, m.RmsNorm(DEFAULT_RMS_EPS))
    if construct.name == "full_width":
        return m.QkNorm(made, "full", origin=read.origin)
    return m.QkNorm(made, "head", after_rope=read.flag("after_rope"), origin=read.origin)


def _gate(expr: s.Expr, context: Context) -> m.OutputGate | None:
    if is_none(expr):
        return None
    construct, call = callee(expr, ("gate",), "`element_gate(...)`, `head_gate(...)` or `none`")
    read = Read(bind(construct, call, context.bag), context)
    return m.OutputGate(
        per="element" if construct.name == "element_gate" else "head",
        act=read.word("act", ("sigmoid", "softplus"), "sigmoid"),
        bias=read.flag("bias"),
        origin=read.origin,
    )


def _temperature(expr: s.Expr, context: Context) -> m.LogTemperature | None:
    if is_none(expr):
        return None
    construct, call = callee(expr, ("temperature",), "`log_temperature(...)` or `none`")
    read = Read(bind(construct, call, context.bag), context)
    offset = read.whole("offset", 1, 1, low=0)
    return m.LogTemperature(read.real("scale", 1.0), read.tokens("period", 1), offset, origin=read.origin)
