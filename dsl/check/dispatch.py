"""`parallel.dispatch`: how tokens reach the ranks of their experts."""

from __future__ import annotations

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.values import flag
from moec.dsl.diagnostics import DiagnosticBag


def read_dispatch(expr: s.Expr, bag: DiagnosticBag) -> m.Dispatch:
    """`all_to_all` or `all_gather`, either with `(shuffle: true)`."""
    construct, call = callee(expr, ("dispatch",), "a dispatch, `all_to_all` or `all_gather`")
    args = bind(construct, call, bag)
    return m.Dispatch(
        by="all_gather" if construct.name == "all_gather" else "all_to_all",
        shuffle=args.read("shuffle", lambda e: flag(e, "shuffle"), False),
        origin=expr.span.origin(),
    )
