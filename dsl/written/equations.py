"""Equations of layers and of the ends of a model, with components by the names of their bindings."""

from __future__ import annotations

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.format import format_expression

from .nodes import ABSENT, NOWHERE, call, node


def equation_text(equation: m.Equation) -> str:
    """`x += attention(norm(x))`."""
    operator = "+=" if equation.add else "="
    return f"{equation.target} {operator} {format_expression(_expression(equation.value))}"


def embed_equation(embed: m.Embed) -> s.Expr:
    """`12 * norm(embed(tokens))`."""
    value: s.Expr = call("embed", "tokens")
    if embed.norm is not None:
        value = call(embed.norm.path.removeprefix("embed_"), value)
    return _scaled(embed.scale, value)


def head_equation(head: m.Head) -> s.Expr:
    """`softcap(linear(norm(x), tied: true) / 8, 30)`."""
    value: s.Expr = call(
        "linear",
        _expression(head.argument),
        tied=head.tied or ABSENT,
        bias=head.bias or ABSENT,
    )
    value = _scaled(head.scale, value)
    return value if head.softcap is None else call("softcap", value, head.softcap)


def _scaled(factor: float, value: s.Expr) -> s.Expr:
    return value if factor == 1.0 else s.Product((node(factor), value), ("*",), NOWHERE)


def _expression(expression: m.Expression) -> s.Expr:
    match expression:
        case m.Var(name):
            return node(name)
        case m.Sum(terms):
            return s.Sum(tuple(map(_expression, terms)), NOWHERE)
        case m.Scaled(factor, value):
            return _scaled(factor, _expression(value))
        case m.Call(path, component, argument):
            norm = isinstance(component, m.RmsNorm | m.LayerNorm)
            return call(norm_name(expression) if norm else path, _expression(argument))


def norm_name(norm: m.Call) -> str:
    """The name of the binding of a norm in a layer or the output, which the name of its weight ends in."""
    last = norm.path.rpartition(".")[2]
    return last.removeprefix("post_") if last != norm.path and _is_around(norm) else last


def _is_around(norm: m.Call) -> bool:
    """Whether the norm stands around the component it is named after, and not inside its argument."""
    component = norm.path.partition(".")[0]
    inside = norm.argument
    while isinstance(inside, m.Call | m.Scaled):
        if isinstance(inside, m.Call) and inside.path == component:
            return True
        inside = inside.value if isinstance(inside, m.Scaled) else inside.argument
    return False
