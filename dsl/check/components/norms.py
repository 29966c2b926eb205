"""Norms, and arguments that take one."""

from __future__ import annotations

from typing import get_args

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments, bind, callee
from moec.dsl.check.components.reading import Context, Read
from moec.dsl.check.values import is_none, wrong_type
from moec.dsl.diagnostics import Mistake, nearest

DEFAULT_RMS_EPS = 1e-6
DEFAULT_LAYER_EPS = 1e-5
_EXPECTED = "a norm, such as `rms_norm(eps: 1e-6)`, or the name of one"


def rms_norm(args: Arguments, context: Context) -> m.RmsNorm:
    """`rms_norm(...)`."""
    read = Read(args, context)
    return m.RmsNorm(_eps(read, DEFAULT_RMS_EPS), _weight(read), origin=read.origin)


def layer_norm(args: Arguments, context: Context) -> m.LayerNorm:
    """`layer_norm(...)`."""
    read = Read(args, context)
    eps, weight = _eps(read, DEFAULT_LAYER_EPS), _weight(read)
    return m.LayerNorm(eps, weight, bias=read.flag("bias", default=True), origin=read.origin)


def _eps(read: Read, default: float) -> float:
    return read.real("eps", default, high=1.0)


def _weight(read: Read) -> m.NormWeight:
    return read.word("weight", get_args(m.NormWeight), "scale")


def norm(expr: s.Expr, context: Context) -> m.Norm:
    """A norm as an argument: a call, or the name of a binding."""
    value = expr
    if is_none(expr):
        raise wrong_type(expr, _EXPECTED)
    if isinstance(expr, s.Ref) and expr.text in context.bindings:
        value = context.bindings[expr.text]
    elif isinstance(expr, s.Ref) and expr.text not in ("rms_norm", "layer_norm"):
        advice = nearest(expr.text, list(context.bindings))
        raise Mistake(c.UNKNOWN_NAME.at(expr.span, f"`{expr.text}` is not bound in the model", advice=advice))
    if not isinstance(value, s.Invoke | s.Ref):
        raise wrong_type(expr, _EXPECTED)
    construct, call = callee(value, ("component",), _EXPECTED)
    if construct.name not in ("rms_norm", "layer_norm"):
        raise wrong_type(expr, _EXPECTED)
    args = bind(construct, call, context.bag)
    return rms_norm(args, context) if construct.name == "rms_norm" else layer_norm(args, context)


def maybe_norm(expr: s.Expr, context: Context) -> m.Norm | None:
    """A norm as an argument, or `none`."""
    return None if is_none(expr) else norm(expr, context)
