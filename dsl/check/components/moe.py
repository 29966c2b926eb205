"""The mixture of experts."""

from __future__ import annotations

from dataclasses import replace

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments
from moec.dsl.check.components.balance import balance, check_scores
from moec.dsl.check.components.ffn import repeated
from moec.dsl.check.components.norms import maybe_norm
from moec.dsl.check.components.reading import Context, Read
from moec.dsl.check.components.router import check_counts, router
from moec.dsl.check.values import is_none
from moec.dsl.diagnostics import Mistake
from moec.dsl.quantities import group


def moe(args: Arguments, context: Context) -> m.Moe:
    """`moe(...)`."""
    read = Read(args, context)
    experts, expert = read.value("experts", lambda e, k: repeated(e, "experts", k), (1, m.Ffn(1)))
    made = m.Moe(
        experts=experts,
        expert=expert,
        router=read.value("router", router, (m.Softmax(), m.Top(1))),
        balance=read.value("balance", balance, ()),
        shared=_shared(read),
        router_bias=read.flag("router_bias"),
        identity=read.whole("identity", limits.EXPERTS, 0, low=0),
        weigh=read.word("weigh", ("output", "input"), "output"),
        latent=read.maybe_whole("latent", limits.WIDTH),
        latent_norm=read.value("latent_norm", maybe_norm, None),
        expert_norm=read.value("expert_norm", maybe_norm, None),
        origin=read.origin,
    )
    _check_experts(read, made)
    _check_paths(read, made)
    return made


def _check_experts(read: Read, made: m.Moe) -> None:
    """The rules between the experts, the router and the losses."""
    if made.routed > limits.EXPERTS:
        label = f"{group(made.experts)} experts and {group(made.identity)} identity ones"
        read.report(c.OUT_OF_RANGE, ("identity", "experts"), f"{label}; at most {group(limits.EXPERTS)}")
    if read.args.sound("experts", "identity", "router"):
        check_counts(read.args.given["router"], made.router, made.routed, read.context)
    if read.args.has("balance") and read.args.sound("balance", "router"):
        check_scores(read.args.given["balance"], made, read.context)


def _check_paths(read: Read, made: m.Moe) -> None:
    """The rules for what happens around the experts."""
    if made.latent is None and made.latent_norm is not None:
        label = "the experts work on the input itself, so there is no latent to norm"
        read.report(c.NO_EFFECT, ("latent_norm", "latent"), label, "give `latent: WIDTH`")
    if made.expert_norm is not None and made.weigh == "input":
        label = "it norms an expert's output before that is weighted, and `weigh: input` weights the input"
        read.report(c.EXCLUDED, ("expert_norm", "weigh"), label)
    if not made.identity:
        return
    others = {"weigh": made.weigh == "input", "latent": made.latent, "expert_norm": made.expert_norm}
    for name in (name for name, given in others.items() if given):
        label = f"what an identity expert gives back with `{name}` is not defined"
        read.report(c.EXCLUDED, (name, "identity"), label, "leave one of the two out")


# --- shared experts ---


def _shared(read: Read) -> m.SharedExperts | None:
    gate = read.flag("shared_gate")
    average = read.word("combine", ("sum", "average"), "sum") == "average"
    found = read.value("shared", _shared_ffn, None)
    if found is None:
        _report_unshared(read, gate, average)
        return None
    count, ffn = found
    return m.SharedExperts(ffn, count, gate, average, origin=read.args.span_of("shared").origin())


def _report_unshared(read: Read, gate: bool, average: bool) -> None:
    if gate:
        read.report(c.NO_EFFECT, ("shared_gate", "shared"), "there is no shared expert to gate")
    if average:
        label = "there is no shared expert to average with"
        read.report(c.NO_EFFECT, ("combine", "shared"), label)


def _shared_ffn(expr: s.Expr, context: Context) -> tuple[int, m.Ffn] | None:
    """How many there are, and one network as wide as all of them."""
    if is_none(expr):
        return None
    count, ffn = repeated(expr, "shared experts", context)
    if count * ffn.width > limits.FFN_WIDTH:
        label = (
            f"{group(count)} shared experts of width {group(ffn.width)}, together {group(count * ffn.width)}"
        )
        raise Mistake(c.OUT_OF_RANGE.at(expr.span, f"{label}; at most {group(limits.FFN_WIDTH)}"))
    return count, replace(ffn, width=count * ffn.width)
