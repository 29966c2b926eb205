"""`memory { ... }` -> `MemorySpec`."""

from __future__ import annotations

from fractions import Fraction
from functools import partial

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.settings import settings_of
from moec.dsl.check.values import EMPTY, is_none, quantity, short, whole, word, wrong_type
from moec.dsl.components import component_names
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest

_WORDS: tuple[m.RecomputeWord, ...] = ("none", "attention", "experts", "layer")
_OTHER_NAMES: dict[str, m.RecomputeWord] = {"full": "layer"}


def check_memory(block: s.Block | None, model: m.ModelSpec | None, bag: DiagnosticBag) -> m.MemorySpec:
    """What is kept between forward and backward, and where. Names are those of `model`, if it is sound."""
    found = settings_of(block, "memory", bag)
    names = component_names(model) if model is not None else None
    return m.MemorySpec(
        recompute=found.read("recompute", partial(_recompute, names=names, bag=bag), "none"),
        offload=found.read("offload", partial(_offload, bag=bag), None),
        gathered=found.read("gathered", _gathered, "free"),
        loss_chunk=found.read("loss_chunk", _loss_chunk, None),
        origin=found.origin(),
    )


def _recompute(expr: s.Expr, names: tuple[str, ...] | None, bag: DiagnosticBag) -> m.Recompute:
    if isinstance(expr, s.ListOf):
        return _named(expr, names, bag)
    if isinstance(expr, s.Invoke):
        construct, call = callee(expr, ("recompute",), "recompute, such as `auto(16GiB)`")
        budget = bind(construct, call, bag).read("budget", partial(_bytes, "budget", 1), 1)
        return m.RecomputeAuto(budget, expr.span.origin())
    if isinstance(expr, s.Ref) and expr.text == "auto":
        raise wrong_type(expr, "recompute, with its budget: `auto(16GiB)`")
    if isinstance(expr, s.Ref) and expr.text in _OTHER_NAMES:
        return _OTHER_NAMES[expr.text]
    if not isinstance(expr, s.Ref):
        raise wrong_type(expr, "recompute, a word, a list of components or `auto(16GiB)`")
    found = word(expr, "recompute", (*_WORDS, *_OTHER_NAMES))
    return next(one for one in _WORDS if one == found)


def _named(expr: s.ListOf, names: tuple[str, ...] | None, bag: DiagnosticBag) -> m.RecomputeNames:
    if len(expr.items) > limits.ARGUMENTS:
        raise Mistake(c.TOO_LARGE.at(expr.span, f"a list of components has at most {limits.ARGUMENTS} names"))
    found = [bag.attempt(_component, item, names) for item in expr.items]
    return m.RecomputeNames(tuple(dict.fromkeys(n for n in found if n is not None)), expr.span.origin())


def _component(expr: s.Expr, names: tuple[str, ...] | None) -> str:
    if not isinstance(expr, s.Ref):
        raise wrong_type(expr, "a component of the model, by name")
    if names is not None and expr.text not in names:
        advice = nearest(expr.text, names)
        raise Mistake(
            c.UNKNOWN_NAME.at(expr.span, f"the model has no component `{expr.text}`", advice=advice)
        )
    return expr.text


def _offload(expr: s.Expr, bag: DiagnosticBag) -> m.Offload | None:
    if is_none(expr):
        return None
    construct, call = callee(expr, ("offload",), "offload, `none` or `activations(horizon: 2)`")
    args, default = bind(construct, call, bag), m.Offload()
    return m.Offload(
        horizon=args.read("horizon", lambda e: whole(e, "horizon", limits.LAYERS), default.horizon),
        least_bytes=args.read("least", partial(_bytes, "least", 0), default.least_bytes),
        origin=expr.span.origin(),
    )


def _gathered(expr: s.Expr) -> m.Gathered:
    return "keep" if word(expr, "gathered", ("free", "keep")) == "keep" else "free"


def _loss_chunk(expr: s.Expr) -> int | None:
    if is_none(expr):
        return None
    if isinstance(expr, s.Number) and expr.word not in ("", "tokens"):
        raise Mistake(c.WRONG_UNIT.at(expr.span, "loss_chunk counts `tokens`"))
    found = quantity(expr, EMPTY, "loss_chunk, a number of tokens")
    if found.unit:
        raise Mistake(c.WRONG_UNIT.at(expr.span, "loss_chunk counts `tokens`"))
    return _whole("loss_chunk", "tokens", expr, found.tokens, 1, limits.BATCH_TOKENS)


def _bytes(what: str, low: int, expr: s.Expr) -> int:
    found = quantity(expr, EMPTY, f"{what}, a number of bytes such as `16GiB`")
    if found.unit != "B":
        raise Mistake(c.WRONG_UNIT.at(expr.span, f"{what} is a number of bytes, such as `16GiB`"))
    return _whole(what, "bytes", expr, found.value, low, limits.BYTES)


def _whole(what: str, unit: str, expr: s.Expr, number: Fraction, low: int, high: int) -> int:
    if number.denominator != 1:
        raise wrong_type(expr, f"{what}, a whole number of {unit}")
    if not low <= number <= high:
        bounds = f"{low} <= {what} <= {high:_} {unit}"
        raise Mistake(c.OUT_OF_RANGE.at(expr.span, f"{what} = {short(number)} breaks {bounds}"))
    return int(number)
