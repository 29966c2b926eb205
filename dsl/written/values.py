"""Values by path: `attention.rope.theta`, `experts.router.top`, `train.batch`, as `--set` names them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.format import format_expression
from moec.dsl.vocabulary import CONSTRUCTS

from .memory import memory_values
from .nodes import call, node


class Fact(NamedTuple):
    """A value at a path. `value` names only what is called, `whole` gives it with its arguments."""

    path: str
    value: str
    whole: str


def flat(path: str, expr: s.Expr) -> Iterator[Fact]:
    """A value and all values inside of it. Of a call: what is called, then its arguments."""
    whole = format_expression(expr)
    match expr:
        case s.Repeat(count, body):
            yield Fact(path, format_expression(count), whole)
            yield Fact(f"{path}.network", _name(body), format_expression(body))
            yield from _arguments(path, body)
        case s.Pipe(stages=parts):
            yield Fact(path, " | ".join(map(_name, parts)), whole)
            yield from _parts(path, parts)
        case s.Sum(terms=parts):
            yield Fact(path, " + ".join(map(_name, parts)), whole)
            yield from _parts(path, parts)
        case s.Invoke() if CONSTRUCTS[expr.name].role in ("stage", "balance"):
            yield Fact(path, expr.name, whole)
            yield from _parts(path, (expr,))
        case s.Invoke():
            yield Fact(path, expr.name, whole)
            yield from _arguments(path, expr)
        case _:
            yield Fact(path, whole, whole)


def _name(expr: s.Expr) -> str:
    return expr.name if isinstance(expr, s.Invoke) else format_expression(expr)


def _arguments(path: str, expr: s.Expr) -> Iterator[Fact]:
    if isinstance(expr, s.Invoke):
        first = CONSTRUCTS[expr.name].params[0].name if CONSTRUCTS[expr.name].params else ""
        for argument in expr.arguments:
            yield from flat(f"{path}.{argument.name or first}", argument.value)


def _parts(path: str, parts: tuple[s.Expr, ...]) -> Iterator[Fact]:
    """The stages of a router, the terms of a balance; the first argument has the path of its stage."""
    seen: dict[str, int] = {}
    for part in parts:
        name = _name(part)
        seen[name] = seen.get(name, 0) + 1
        here = f"{path}.{name}" + (f"[{seen[name]}]" if seen[name] > 1 else "")
        if isinstance(part, s.Invoke):
            for argument in part.arguments:
                inner = here if argument.name is None else f"{here}.{argument.name}"
                yield from flat(inner, argument.value)


# --- where and how it runs ---


def settings(spec: m.Spec) -> Iterator[Fact]:
    """The settings of the blocks other than the model."""
    degrees = {
        name: getattr(spec.parallel, name) for name in ("expert", "shard", "replicate", "expert_shard")
    }
    for name, degree in degrees.items():
        yield _plain(f"parallel.{name}", "rest" if degree is None else str(degree))
    dispatch = spec.parallel.dispatch
    yield from flat("parallel.dispatch", call(dispatch.by, shuffle=dispatch.shuffle))
    for name in ("compute", "params", "reduce", "router", "optimizer"):
        yield _plain(f"precision.{name}", str(getattr(spec.precision, name)))
    for name, value in memory_values(spec.memory).items():
        yield from flat(f"memory.{name}", value)
    yield from _train(spec.train)


def _checkpoint(saving: m.Checkpointing | None) -> s.Expr:
    return node(None) if saving is None else call("saved", every=saving.every, keep=saving.keep)


def _nonfinite(policy: m.OnNonfinite) -> s.Expr:
    return node("stop") if policy.kind == "stop" else call(policy.kind, most=policy.most)


def _spike(policy: m.OnSpike) -> s.Expr:
    match policy.kind:
        case "none":
            return node(None)
        case "warn":
            return call("warn", factor=policy.factor)
    return call(policy.kind, most=policy.most, factor=policy.factor)


def _plain(path: str, value: str) -> Fact:
    return Fact(path, value, value)


def _train(train: m.TrainSpec) -> Iterator[Fact]:
    optimizer, schedule = train.optimizer, train.schedule
    values: dict[str, s.Expr] = {
        "sequence": node(train.sequence),
        "batch": s.Number(str(train.batch_tokens), "tokens", node(None).span),
        "steps": node(train.steps),
        "epochs": node(train.epochs),
        "micro_batches": node(train.micro_batches),
        "optimizer": call(
            "adamw",
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
        ),
        "schedule": call("cosine", warmup=schedule.warmup, floor=schedule.floor)
        if isinstance(schedule, m.Cosine)
        else call("constant", warmup=schedule.warmup),
        "clip": node(train.clip),
        "seed": node(train.seed),
        "checkpoint": _checkpoint(train.checkpoint),
        "nonfinite": _nonfinite(train.nonfinite),
        "spike": _spike(train.spike),
        "documents": node(train.documents),
        "validation": node(None)
        if train.validation is None
        else call("evaluated", every=train.validation.every, batches=train.validation.batches),
    }
    for name, value in values.items():
        yield from flat(f"train.{name}", value)
