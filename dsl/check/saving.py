"""`train.checkpoint`: whether, and how often, a run saves its state."""

from __future__ import annotations

from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.values import is_none, whole
from moec.dsl.diagnostics import DiagnosticBag


def checkpointing(expr: s.Expr, bag: DiagnosticBag) -> m.Checkpointing | None:
    """`none` or `saved(every: 1000, keep: 3)`."""
    if is_none(expr):
        return None
    construct, call = callee(expr, ("saving",), "`none` or `saved(every: 1000, keep: 3)`")
    args = bind(construct, call, bag)
    default = m.Checkpointing()
    return m.Checkpointing(
        every=args.read("every", lambda e: whole(e, "every", limits.STEPS), default.every),
        keep=args.read("keep", lambda e: whole(e, "keep", limits.KEPT), default.keep),
    )
