"""Expressions of a layer -> nodes of its reference graph."""

from __future__ import annotations

from torch import fx

from moec.compiler import model_ops
from moec.compiler.errors import CompileError
from moec.dsl.spec import Call, Expression, Ffn, Gqa, Moe, RmsNorm, Var

from .attention import build_gqa
from .feed_forward import build_swiglu
from .moe import build_moe
from .scope import LayerScope


def evaluate(expression: Expression, scope: LayerScope) -> fx.Node:
    """The node that holds an expression's value, (T, D)."""
    if isinstance(expression, Var):
        return scope.chain[expression.name]
    if not isinstance(expression, Call):
        raise CompileError("not supported yet: sums and products in an equation", expression.origin)
    return _apply(expression, evaluate(expression.argument, scope), scope)


def _apply(call: Call, x: fx.Node, scope: LayerScope) -> fx.Node:
    match call.component:
        case RmsNorm() as norm:
            return scope.call(model_ops.rms_norm, x, scope.parameters[call.path], norm.eps, at=call.origin)
        case Gqa() as gqa:
            return build_gqa(scope, x, call.path, gqa)
        case Ffn() as ffn:
            return build_swiglu(scope, x, call.path, ffn.origin)
        case Moe() as moe:
            return build_moe(scope, x, call.path, moe)
    raise CompileError("not supported yet", call.origin)
