"""A router: `sigmoid | correction_bias | groups(8, keep: 4, by: top2_sum) | top(8) | renormalize`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.components.order import Written, check_order
from moec.dsl.check.components.reading import Context, Read
from moec.dsl.check.components.sizes import divisors_near
from moec.dsl.diagnostics import Diagnostic, Mistake

_NOTHING: tuple[m.RouterStage, ...] = (m.Softmax(), m.Top(1))


def router(expr: s.Expr, context: Context) -> tuple[m.RouterStage, ...]:
    """The stages of a pipeline. Where one is at fault or out of order, that is reported."""
    built = [context.bag.attempt(_stage, one, context) for one in written(expr)]
    stages = tuple(stage for stage in built if stage is not None)
    if len(stages) < len(built):
        return _NOTHING
    names = [Written(callee_name(one), one.span) for one in written(expr)]
    wrong = check_order(names, expr.span)
    for diagnostic in wrong:
        context.bag.add(diagnostic)
    return _NOTHING if wrong else stages


def written(expr: s.Expr) -> Sequence[s.Expr]:
    """The expressions of the stages."""
    return expr.stages if isinstance(expr, s.Pipe) else (expr,)


def callee_name(expr: s.Expr) -> str:
    """The name of a stage."""
    return expr.name if isinstance(expr, s.Invoke) else expr.text if isinstance(expr, s.Ref) else ""


# --- one stage ---


def _stage(expr: s.Expr, context: Context) -> m.RouterStage:
    construct, call = callee(expr, ("stage",), "a stage of a router")
    return _STAGES[construct.name](Read(bind(construct, call, context.bag), context))


def _k(read: Read) -> int:
    return read.whole("k", limits.EXPERTS, 1)


def _jitter(read: Read) -> m.Jitter:
    return m.Jitter(read.real("eps", 0.5, high=1.0, high_open=True), read.origin)


def _groups(read: Read) -> m.Groups:
    groups = read.whole("groups", limits.EXPERTS, 1)
    keep = read.whole("keep", limits.EXPERTS, 1)
    if keep > groups:
        read.report(c.BAD_GROUPS, ("keep",), f"keep = {keep} of {groups} groups", f"at most {groups}")
    return m.Groups(
        groups,
        keep,
        by=read.word("by", ("max", "top2_sum"), "max"),
        fill=read.word("fill", ("minus_inf", "zero"), "minus_inf"),
        origin=read.origin,
    )


def _sparsemixer(read: Read) -> m.SparseMixer:
    return m.SparseMixer(_k(read), read.real("jitter", 0.01), read.origin)


def _renormalize(read: Read) -> m.Renormalize:
    eps = read.real("eps", 0.0, low_open=False)
    minimum = read.real("minimum", 0.0, low_open=False)
    p = read.real("p", 1.0, low=0.1, high=100.0, low_open=False)
    return m.Renormalize(eps, minimum, p, read.origin)


_STAGES: Mapping[str, Callable[[Read], m.RouterStage]] = {
    "jitter": _jitter,
    "scale": lambda read: m.Scale(read.real("factor", 1.0), read.origin),
    "softcap": lambda read: m.Softcap(read.real("limit", 1.0), read.origin),
    "softmax": lambda read: m.Softmax(read.origin),
    "sigmoid": lambda read: m.Sigmoid(read.origin),
    "sqrt_softplus": lambda read: m.SqrtSoftplus(read.origin),
    "correction_bias": lambda read: m.CorrectionBias(read.maybe_real("update"), read.origin),
    "sinkhorn": lambda read: m.Sinkhorn(read.whole("iterations", limits.ITERATIONS, 8), read.origin),
    "groups": _groups,
    "top": lambda read: m.Top(_k(read), read.origin),
    "sparsemixer": _sparsemixer,
    "hash": lambda read: m.Hash(_k(read), read.origin),
    "round_robin": lambda read: m.RoundRobin(_k(read), read.origin),
    "renormalize": _renormalize,
    "expert_scale": lambda read: m.ExpertScale(read.origin),
    "capacity": lambda read: m.Capacity(read.real("factor", 1.0), read.flag("pad"), read.origin),
}

# --- rules with the number of experts ---


def check_counts(expr: s.Expr, stages: Sequence[m.RouterStage], routed: int, context: Context) -> None:
    """Report stages that do not fit the number of experts, identity ones included."""
    choosable = routed
    for one, stage in zip(written(expr), stages, strict=True):
        match stage:
            case m.Groups() as groups:
                if not context.bag.attempt(_check_groups, one, groups, routed):
                    return
                choosable = groups.keep * (routed // groups.groups)
            case m.Top(k) | m.SparseMixer(k) | m.Hash(k) | m.RoundRobin(k) if k > choosable:
                context.bag.add(_too_many(one, k, choosable, routed))


def _too_many(stage: s.Expr, k: int, choosable: int, routed: int) -> Diagnostic:
    name = callee_name(stage)
    there = f"{choosable} experts there are"
    if choosable < routed:
        there = f"{choosable} experts of the groups that are kept"
    label = f"{name}({k}) chooses more than the {there}"
    return c.TOP_TOO_LARGE.at(stage.span, label, advice=f"at most {name}({choosable})")


def _check_groups(expr: s.Expr, groups: m.Groups, routed: int) -> bool:
    if routed % groups.groups:
        label = f"{routed} experts cannot be cut into {groups.groups} equal groups"
        legal = ", ".join(map(str, divisors_near(routed, groups.groups)))
        raise Mistake(c.BAD_GROUPS.at(expr.span, label, advice=f"nearest numbers of groups: {legal}"))
    if groups.by == "top2_sum" and routed == groups.groups:
        label = f"{groups.groups} groups of {routed} experts hold one each, and top2_sum adds the two best"
        raise Mistake(c.BAD_GROUPS.at(expr.span, label, advice="use fewer groups, or `by: max`"))
    return True
