"""Defaults that follow from other values, as expressions of the language.

Each is what the checker takes where the argument is absent: written out, it changes nothing. None where it
cannot be written down, because a number it follows from is given by a `match` over the layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isqrt

from moec.dsl import limits
from moec.dsl import syntax as s
from moec.dsl.check.components.positions import default_magnitude, default_mscale
from moec.dsl.check.values import Scope, real, whole
from moec.dsl.diagnostics import DiagnosticBag, Mistake
from moec.dsl.parse import parse_expression
from moec.dsl.quantities import group
from moec.dsl.source import SourceText
from moec.dsl.trees import walk

Values = Mapping[str, s.Expr]
_Rule = Callable[[Values, Scope], s.Expr | None]


def derived_default(construct: str, param: str, values: Values, scope: Scope) -> s.Expr | None:
    """The default of an argument that follows from others, whose `values` are given."""
    rule = _RULES.get((construct, param))
    try:
        return None if rule is None else rule(values, scope)
    except Mistake:  # a value that differs by layer
        return None


def rotated_dims(construct: str, values: Values) -> s.Expr | None:
    """The number of dims of a head that the positions of an attention are over."""
    size = values.get({"gqa": "head_dim", "mla": "rope_dim"}.get(construct, ""))
    return None if size is None else _again(size)


def expression(text: str) -> s.Expr:
    """The expression of a text that is known to be one."""
    value = parse_expression(SourceText("<default>", text), DiagnosticBag())
    assert value is not None, text
    return value


def _again(expr: s.Expr) -> s.Expr | None:
    """An expression that can stand in a second place: one without a match."""
    return None if any(isinstance(one, s.Match) for one in walk(expr)) else expr


def _copy(name: str) -> _Rule:
    return lambda values, scope: _again(values[name]) if name in values else None


# --- attention ---


def _head_dim(values: Values, scope: Scope) -> s.Expr:
    heads = whole(values["heads"], "heads", limits.HEADS, scope=scope)
    return expression(group(whole(expression("width"), "width", limits.WIDTH, scope=scope) // heads))


def _gqa_scale(values: Values, scope: Scope) -> s.Expr:
    return _inverse_root(whole(values["head_dim"], "head_dim", limits.HEAD_DIM, scope=scope))


def _mla_scale(values: Values, scope: Scope) -> s.Expr:
    sizes = [whole(values[name], name, limits.HEAD_DIM, scope=scope) for name in ("nope_dim", "rope_dim")]
    return _inverse_root(sum(sizes))


def _inverse_root(dims: int) -> s.Expr:
    root = isqrt(dims)
    return expression(f"1 / {root}" if root * root == dims else f"1 / sqrt({dims})")


# --- positions ---


def _magnitude(values: Values, scope: Scope) -> s.Expr:
    return expression(repr(default_magnitude(real(values["factor"], "factor", scope=scope))))


def _mscale(values: Values, scope: Scope) -> s.Expr | None:
    original = whole(values["original"], "original", limits.CONTEXT, 2, scope, prefix_of_tokens=True)
    context = whole(scope.values["context"], "context", limits.CONTEXT, prefix_of_tokens=True)
    found = default_mscale(context, original)
    return None if found is None else expression(repr(found))


def _offset(values: Values, scope: Scope) -> s.Expr:
    return expression(group(whole(values["n"], "n", limits.LAYERS, scope=scope) - 1))


_RULES: Mapping[tuple[str, str], _Rule] = {
    ("gqa", "kv_heads"): _copy("heads"),
    ("gqa", "head_dim"): _head_dim,
    ("gqa", "value_dim"): _copy("head_dim"),
    ("gqa", "scale"): _gqa_scale,
    ("mla", "scale"): _mla_scale,
    ("yarn", "magnitude"): _magnitude,
    ("longrope", "short_mscale"): _mscale,
    ("longrope", "long_mscale"): _mscale,
    ("every", "offset"): _offset,
}
