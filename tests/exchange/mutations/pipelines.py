"""Other pipelines than that of a router: a stage dropped, changed, exchanged, moved or added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from moec.dsl import spec as m
from moec.dsl.vocabulary import ROUTER_ORDER

from .options import changed_fields, construct_name

Pipeline = tuple[m.RouterStage, ...]
Mutated = Iterator[tuple[str, Pipeline]]


def pipelines(router: Pipeline) -> Mutated:
    """(mutation, pipeline); not all are legal, and several may share a name: the first legal one counts."""
    names = _names(router)
    for i, stage in enumerate(router):
        yield f"{names[i]} dropped", (*router[:i], *router[i + 1 :])
        for mutation, other in changed_fields(stage, names[i]):
            yield mutation, (*router[:i], other, *router[i + 1 :])
    yield from _exchanged(router, names)
    yield from _moved(router, names)
    yield from _added(router)


def _names(router: Pipeline) -> list[str]:
    """The stages' names; of several of one kind, numbered ones."""
    kinds = [type(stage) for stage in router]
    return [
        construct_name(stage) + (f" {kinds[: i + 1].count(kinds[i])}" if kinds.count(kinds[i]) > 1 else "")
        for i, stage in enumerate(router)
    ]


def _stages(k: int) -> Sequence[m.RouterStage]:
    """One of every kind that a router of k choices may have instead or besides, with numbers that matter."""
    return (
        m.Scale(1.5), m.Softcap(1.0), m.Softmax(), m.Sigmoid(), m.SqrtSoftplus(), m.CorrectionBias(),
        m.Sinkhorn(2), m.Groups(2, 1), m.Top(k), m.SparseMixer(k, 0.1), m.Hash(k), m.RoundRobin(k),
        m.Renormalize(), m.ExpertScale(),
    )  # fmt: skip


def _choice(router: Pipeline) -> int:
    return next(i for i, stage in enumerate(router) if isinstance(stage, m.Chooser))


def _k(router: Pipeline) -> int:
    return next(stage.k for stage in router if isinstance(stage, m.Chooser))


def _exchanged(router: Pipeline, names: list[str]) -> Mutated:
    """Another kind of stage in the place of one, of those that may stand there."""
    for i, stage in enumerate(router):
        others = [x for x in _stages(_k(router)) if type(x) is not type(stage) and _alike(x, stage)]
        for other in others:
            yield f"{names[i]} -> {construct_name(other)}", (*router[:i], other, *router[i + 1 :])
        if isinstance(stage, m.SparseMixer):  # the others do not weigh
            for score in (m.Softmax(), m.Sigmoid()):
                scored = (score, m.Top(stage.k))
                name = f"{names[i]} -> {construct_name(score)} and top"
                yield name, (*router[:i], *scored, *router[i + 1 :])


def _alike(one: m.RouterStage, other: m.RouterStage) -> bool:
    return any({construct_name(one), construct_name(other)} <= set(group) for group in ROUTER_ORDER)


def _moved(router: Pipeline, names: list[str]) -> Mutated:
    """A stage on the other side of the choice, or before the stage that it follows."""
    choice = _choice(router)
    for i, stage in enumerate(router):
        rest = (*router[:i], *router[i + 1 :])
        side, places = ("after", range(choice, len(router))) if i < choice else ("before", range(choice + 1))
        for place in places if i != choice else ():
            yield f"{names[i]} moved {side} the choice", (*rest[:place], stage, *rest[place:])
        if i and choice not in (i - 1, i):
            yield f"{names[i]} before {names[i - 1]}", (*rest[: i - 1], stage, *rest[i - 1 :])


def _added(router: Pipeline) -> Mutated:
    """A stage more, on either side of the choice."""
    for stage in _stages(_k(router)):
        for place in range(len(router) + 1):
            side = "before" if place <= _choice(router) else "after"
            name = f"{construct_name(stage)} added {side} the choice"
            yield name, (*router[:place], stage, *router[place:])
