"""The settings of `train` that are about data -> their specs."""

from __future__ import annotations

from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.values import is_none, whole, word
from moec.dsl.diagnostics import DiagnosticBag


def read_documents(expr: s.Expr) -> m.Documents:
    """Raises Mistake."""
    return "separate" if word(expr, "documents", ("joined", "separate")) == "separate" else "joined"


def read_validation(expr: s.Expr, bag: DiagnosticBag) -> m.Evaluated | None:
    """Raises Mistake; mistakes in arguments go to the bag."""
    if is_none(expr):
        return None
    construct, call = callee(expr, ("validation",), "validation, `none` or `evaluated(every: 500)`")
    args, default = bind(construct, call, bag), m.Evaluated()
    return m.Evaluated(
        every=args.read("every", lambda e: whole(e, "every", limits.STEPS), default.every),
        batches=args.read("batches", lambda e: whole(e, "batches", limits.STEPS), default.batches),
        origin=expr.span.origin(),
    )
