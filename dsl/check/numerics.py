"""The settings of `train` that say what is done about losses and gradients that are not sound."""

from __future__ import annotations

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments, bind, callee
from moec.dsl.check.settings import Settings
from moec.dsl.check.values import is_none, real, whole
from moec.dsl.diagnostics import DiagnosticBag

_MOST = {"skip": 10, "rewind": 3}
_FACTOR = 3.0


def read_nonfinite(expr: s.Expr, bag: DiagnosticBag) -> m.OnNonfinite:
    """`stop`, `skip(most: 10)` or `rewind(most: 3)`. Raises Mistake."""
    if isinstance(expr, s.Ref) and expr.text == "stop":
        return m.OnNonfinite(origin=expr.span.origin())
    construct, call = callee(expr, ("remedy",), "`stop`, `skip(most: 10)` or `rewind(most: 3)`")
    args = bind(construct, call, bag)
    if args.has("factor"):
        label = "what is not finite has no factor: it is an argument of `spike`"
        bag.add(c.FACTOR_OF_NONFINITE.at(args.span_of("factor"), label))
    kind = "skip" if construct.name == "skip" else "rewind"
    return m.OnNonfinite(kind, _most(args, kind), expr.span.origin())  # type: ignore[arg-type]


def read_spike(expr: s.Expr, bag: DiagnosticBag) -> m.OnSpike:
    """`none`, `warn(factor: 3)`, `skip(...)` or `rewind(factor: 3, most: 3)`. Raises Mistake."""
    if is_none(expr):
        return m.OnSpike()
    expected = "`none`, `warn(factor: 3)`, `skip(factor: 3)` or `rewind(factor: 3, most: 3)`"
    construct, call = callee(expr, ("warning", "remedy"), expected)
    args, kind = bind(construct, call, bag), construct.name
    factor = args.read("factor", lambda e: real(e, "factor", 1.0, 1e6), _FACTOR)
    most = 0 if kind == "warn" else _most(args, kind)
    return m.OnSpike(kind, factor, most, expr.span.origin())  # type: ignore[arg-type]


def _most(args: Arguments, kind: str) -> int:
    return args.read("most", lambda e: whole(e, "most", limits.STEPS), _MOST[kind])


def check_rewinds(found: Settings, train: m.TrainSpec) -> None:
    """Where a run goes back to a checkpoint, there are some, and more batches than those of the data."""
    for name, kind in (("nonfinite", train.nonfinite.kind), ("spike", train.spike.kind)):
        if kind != "rewind":
            continue
        if train.checkpoint is None:
            label = "there is no checkpoint to go back to: `checkpoint = none`"
            advice = "checkpoint = saved(every: 1000)"
            found.bag.add(c.NOTHING_TO_REWIND_TO.at(found.span(name), label, advice=advice))
        elif train.epochs is not None:
            label = "a rewind passes batches over, and `epochs` asks for every one"
            found.bag.add(c.NOTHING_TO_REWIND_TO.at(found.span(name), label, advice="give `steps`"))
