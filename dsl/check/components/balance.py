"""Loss terms that balance a router: `aux_loss(0.01) + z_loss(0.001)`."""

from __future__ import annotations

from collections.abc import Sequence

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.components.reading import Context, Read
from moec.dsl.check.values import is_none
from moec.dsl.trees import walk


def balance(expr: s.Expr, context: Context) -> tuple[m.BalanceTerm, ...]:
    """The terms of a sum, each kind at most once."""
    if is_none(expr):
        return ()
    built: list[m.BalanceTerm] = []
    for term in _terms(expr):
        found = context.bag.attempt(_term, term, context)
        if found is None:
            continue
        if any(type(found) is type(other) for other in built):
            context.bag.add(c.BAD_BALANCE.at(term.span, f"{s.describe(term)} is given twice"))
        built.append(found)
    return tuple(built)


def _terms(expr: s.Expr) -> Sequence[s.Expr]:
    return expr.terms if isinstance(expr, s.Sum) else (expr,)


def _term(expr: s.Expr, context: Context) -> m.BalanceTerm:
    construct, call = callee(expr, ("balance",), "a loss term such as `aux_loss(0.01)`")
    read = Read(bind(construct, call, context.bag), context)
    coefficient, origin = read.real("coefficient", 1.0), expr.span.origin()
    if construct.name == "z_loss":
        return m.ZLoss(coefficient, origin)
    if construct.name == "sequence_aux_loss":
        return m.SequenceAuxLoss(coefficient, origin)
    return m.AuxLoss(
        coefficient,
        per=read.word("per", ("model", "layer"), "model"),
        choices=read.word("choices", ("router", "softmax"), "router"),
        origin=origin,
    )


def check_scores(expr: s.Expr, mixture: m.Moe, context: Context) -> None:
    """Report a loss of scores where the router has none. `expr` is the argument `balance`."""
    chooser = mixture.router.index(mixture.chooser)
    if any(isinstance(stage, m.Softmax | m.Sigmoid | m.SqrtSoftplus) for stage in mixture.router[:chooser]):
        return
    if any(isinstance(term, m.SequenceAuxLoss) for term in mixture.balance):
        place = next(one for one in walk(expr) if isinstance(one, s.Ref) and one.text == "sequence_aux_loss")
        label = "a loss of the router's scores, and this router has none before its choice"
        advice = "use `aux_loss`, or put `softmax` or `sigmoid` before the choice"
        context.bag.add(c.BAD_BALANCE.at(place.span, label, advice=advice))
