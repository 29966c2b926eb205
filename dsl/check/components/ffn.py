"""Feed-forward networks, alone and in `N of swiglu(W)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments, bind, callee
from moec.dsl.check.components.reading import Context, Read
from moec.dsl.check.values import whole, wrong_type

_LARGE = 1e30


def swiglu(args: Arguments, context: Context) -> m.Ffn:
    """`swiglu(W)`: gated by silu, whose slope is `alpha`."""
    read = Read(args, context)
    return _gated(read, "silu", read.real("alpha", 1.0))


def geglu(args: Arguments, context: Context) -> m.Ffn:
    """`geglu(W)`: gated by the tanh form of gelu."""
    return _gated(Read(args, context), "gelu_tanh", 1.0)


def _gated(read: Read, activation: m.Activation, alpha: float) -> m.Ffn:
    clamp, after = read.maybe_real("clamp"), read.maybe_real("clamp_after")
    if clamp is not None and after is not None:
        label = "a network is clamped before its activation or after it, not both"
        read.report(c.EXCLUDED, ("clamp_after", "clamp"), label)
    return m.Ffn(
        _width(read),
        activation,
        bias=read.flag("bias"),
        clamp=clamp,
        clamp_after=after,
        alpha=alpha,
        offset=read.real("offset", 0.0, low=-_LARGE, low_open=False),
        origin=read.origin,
    )


def mlp(args: Arguments, context: Context) -> m.Ffn:
    """`mlp(W)`: no gate."""
    read = Read(args, context)
    act: m.Activation = read.word("act", get_args(m.Activation), "gelu")
    return m.Ffn(_width(read), act, gated=False, bias=read.flag("bias"), origin=read.origin)


def _width(read: Read) -> int:
    return read.whole("width", limits.FFN_WIDTH, 1)


_BUILDERS: Mapping[str, Callable[[Arguments, Context], m.Ffn]] = {
    "swiglu": swiglu,
    "geglu": geglu,
    "mlp": mlp,
}
_EXPECTED = "`swiglu(W)`, `geglu(W)` or `mlp(W)`"


def repeated(expr: s.Expr, what: str, context: Context) -> tuple[int, m.Ffn]:
    """`N of swiglu(W)`: N, and one network. `what` is counted."""
    if not isinstance(expr, s.Repeat):
        raise wrong_type(expr, "`N of swiglu(W)`")
    count = whole(expr.count, what, limits.EXPERTS, scope=context.scope)
    body = expr.body
    if isinstance(body, s.Ref) and body.text in context.bindings:
        body = context.bindings[body.text]
    if not isinstance(body, s.Invoke):
        raise wrong_type(expr.body, _EXPECTED)
    construct, call = callee(body, ("component",), _EXPECTED)
    if construct.name not in _BUILDERS:
        raise wrong_type(expr.body, _EXPECTED)
    return count, _BUILDERS[construct.name](bind(construct, call, context.bag), context)
