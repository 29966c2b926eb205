"""Other mixtures than one of a model: one option of its router, its experts or its losses changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cache

from dsl_again import again
from moec.dsl import SourceErrors
from moec.dsl import spec as m
from moec.dsl.check.components.order import Written, check_order
from moec.dsl.source import SourceText, Span

from .options import changed_fields, construct_name
from .pipelines import pipelines

Mutated = Iterator[tuple[str, m.Moe]]
_NOWHERE = Span(SourceText("", ""), 0, 0)


@cache
def mutations(moe: m.Moe) -> Mapping[str, m.Moe]:
    """All legal mixtures that differ from `moe` in one option, by what differs."""
    found: dict[str, m.Moe] = {}
    for name, other in candidates(moe):
        if name not in found and other != moe and other not in found.values() and is_legal(other):
            found[name] = other
    return found


def is_legal(moe: m.Moe) -> bool:
    """Whether there is a text that means it. Of the router that is told without the text: it is faster."""
    stages = [Written(construct_name(stage), _NOWHERE) for stage in moe.router]
    if not moe.experts or not stages or check_order(stages, _NOWHERE) or not _is_enough(moe):
        return False
    return has_text(replace(moe, router=(m.Softmax(), m.Top(1)), balance=()))


def _is_enough(moe: m.Moe) -> bool:
    """Whether there are as many experts as the router chooses, and groups of one size."""
    choosable = moe.routed
    for stage in moe.router:
        if isinstance(stage, m.Groups):
            size, rest = divmod(moe.routed, stage.groups)
            if rest or stage.keep > stage.groups or (stage.by == "top2_sum" and size < 2):
                return False
            choosable = stage.keep * size
    return moe.top_k <= choosable


@cache
def has_text(moe: m.Moe) -> bool:
    """Whether the checker takes its text, and finds all of it in there."""
    try:
        return again(moe, 64, 64) == moe
    except SourceErrors:
        return False


def candidates(moe: m.Moe) -> Mutated:
    """Mixtures that differ in one option, legal or not."""
    for name, router in pipelines(moe.router):
        yield name, replace(moe, router=router)
    yield from _networks(moe)
    yield from _losses(moe)
    yield from _norms(moe)
    yield from changed_fields(moe, "moe")


def _networks(moe: m.Moe) -> Mutated:
    """The experts' network, and the shared one."""
    for name, ffn in changed_fields(moe.expert, "expert"):
        yield name, replace(moe, expert=ffn)
    shared = moe.shared
    if shared is None:
        return
    yield "shared dropped", replace(moe, shared=None)
    for name, ffn in changed_fields(shared.ffn, "shared"):
        yield name, replace(moe, shared=replace(shared, ffn=ffn))
    for name, other in changed_fields(shared, "shared"):
        yield name, replace(moe, shared=other)


def _losses(moe: m.Moe) -> Mutated:
    for i, term in enumerate(moe.balance):
        name = construct_name(term)
        before, after = moe.balance[:i], moe.balance[i + 1 :]
        yield f"{name} dropped", replace(moe, balance=(*before, *after))
        for mutation, other in changed_fields(term, name):
            yield mutation, replace(moe, balance=(*before, other, *after))


def _norms(moe: m.Moe) -> Mutated:
    """The norms of the latent and of the experts' outputs."""
    if moe.latent_norm is not None:
        yield "latent_norm dropped", replace(moe, latent_norm=None)
        for name, norm in changed_fields(moe.latent_norm, "latent_norm"):
            yield name, replace(moe, latent_norm=norm)
    if moe.expert_norm is not None:
        yield "expert_norm dropped", replace(moe, expert_norm=None)
        for name, norm in changed_fields(moe.expert_norm, "expert_norm"):
            yield name, replace(moe, expert_norm=norm)
