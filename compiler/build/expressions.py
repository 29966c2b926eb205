"""Expressions and equations of a layer -> nodes of its reference graph."""

from __future__ import annotations

from functools import reduce

from torch import fx

from moec.compiler import model_ops
from moec.dsl.spec import (
    Call,
    Equation,
    Expression,
    Ffn,
    Gqa,
    LayerNorm,
    Mla,
    Moe,
    RmsNorm,
    Scaled,
    Sum,
    Var,
)

from .attention import build_gqa
from .feed_forward import build_ffn
from .mla import build_mla
from .moe import build_moe
from .norms import build_norm
from .scope import LayerScope


def assign(equation: Equation, scope: LayerScope) -> None:
    """Carry out `target = value` or `target += value`."""
    result = evaluate(equation.value, scope)
    if equation.add:
        result = scope.call(model_ops.add, scope.get(equation.target), result, at=equation.origin)
    scope.set(equation.target, result)


def evaluate(expression: Expression, scope: LayerScope) -> fx.Node:
    """The node that holds an expression's value, (T, D)."""
    match expression:
        case Var(name):
            return scope.get(name)
        case Scaled(factor, value):
            return scope.call(model_ops.scaled, evaluate(value, scope), factor, at=expression.origin)
        case Sum(terms):
            values = [evaluate(term, scope) for term in terms]
            return reduce(lambda x, y: scope.call(model_ops.add, x, y, at=expression.origin), values)
        case Call(argument=argument):
            return _apply(expression, evaluate(argument, scope), scope)


def _apply(call: Call, x: fx.Node, scope: LayerScope) -> fx.Node:
    with scope.builder.within(call.path):
        return _applied(call, x, scope)


def _applied(call: Call, x: fx.Node, scope: LayerScope) -> fx.Node:
    match call.component:
        case RmsNorm() | LayerNorm() as norm:
            return build_norm(scope, x, call.path, norm, call.origin)
        case Gqa() as gqa:
            return build_gqa(scope, x, call.path, gqa)
        case Mla() as mla:
            return build_mla(scope, x, call.path, mla)
        case Ffn() as ffn:
            return build_ffn(scope, x, call.path, ffn)
        case Moe() as moe:
            return build_moe(scope, x, call.path, moe)
