"""Loss terms that balance a router: `aux_loss(0.01) + z_loss(0.001)`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.components.reading import Context, Read
from moec.dsl.check.values import is_none
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.source import Span
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
        over=read.word("over", ("micro_batch", "batch"), "micro_batch"),
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


def check_agreement(model: m.ModelSpec, exprs: Iterable[s.Expr], place: Span, bag: DiagnosticBag) -> None:
    """Report loss terms that are one loss of all layers, and do not go together.

    `exprs` are the bindings of the model, among which the terms are; `place` is that of the model.
    """
    kinds = {id(layer): layer for layer in model.layers}.values()
    calls = [call.component for layer in kinds for call in layer.calls()]
    terms = [(moe, term) for moe in calls if isinstance(moe, m.Moe) for term in moe.balance]
    first: dict[type, tuple[m.Moe, m.BalanceTerm]] = {}
    for moe, term in terms:
        other, agreed = first.setdefault(type(term), (moe, term))
        if term != agreed:
            label = "a loss that differs between layers is not supported yet"
            return bag.add(c.NOT_YET.at(_written(term, exprs, place), label))
        pooled = isinstance(term, m.AuxLoss) and term.per == "model"
        if pooled and moe.routed != other.routed:
            label = f"pools the tokens of all layers, which have {other.routed} and {moe.routed} experts"
            advice = "a loss of every layer by itself is `per: layer`"
            return bag.add(c.BAD_BALANCE.at(_written(term, exprs, place), label, advice=advice))
    return None


def _written(term: m.BalanceTerm, exprs: Iterable[s.Expr], otherwise: Span) -> Span:
    """Where a term is written: its call that begins on the line it is from."""
    names = {m.AuxLoss: "aux_loss", m.SequenceAuxLoss: "sequence_aux_loss", m.ZLoss: "z_loss"}
    calls = (one for expr in exprs for one in walk(expr) if isinstance(one, s.Invoke))
    spans = (
        call.span
        for call in calls
        if isinstance(call.callee, s.Ref)
        and call.callee.text == names[type(term)]
        and call.span.origin() == term.origin
    )
    return next(spans, otherwise)
