"""`memory.recompute` -> a policy for every kind of region.

`auto` looks at every kind of region for itself, at all sets of its components that can be made again. Of each
it knows the bytes that stay and the work that is added. Of these options it takes one for every kind, so that
the whole chain fits the budget at the least work: options that are worse in both than another never matter,
so kinds are joined one by one, and only what is not worse in both is carried on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from moec.compiler.differentiate.policy import KEEP_ALL, KEEP_NONE, Policy, is_free
from moec.compiler.differentiate.split import cross
from moec.compiler.differentiate.trace import Joint
from moec.compiler.errors import CompileError
from moec.compiler.graph import component
from moec.dsl.components import components_of
from moec.dsl.spec import ModelSpec, Recompute, RecomputeAuto, RecomputeNames

from .kept import of_chain
from .sizes import Sizes, layers_by_kind
from .work import work

MOST_COMPONENTS = 8  # of a region, looked at one by one; more are taken together by their first names
MOST_OPTIONS = 4096  # that are carried on from kind to kind


@dataclass(frozen=True)
class Option:
    """A policy for one kind of region: what stays from forward to backward, and what is computed again."""

    policy: Policy
    kept_bytes: int
    work: int


def choose(
    recompute: Recompute,
    joints: dict[str, Joint],
    model: ModelSpec,
    chain: Sequence[tuple[str, str]],
    sizes: dict[str, Sizes],
) -> dict[str, Policy]:
    """The policy of every kind of region in `joints`; `sizes`: of every kind."""
    match recompute:
        case RecomputeAuto():
            counts = Counter(kind for _, kind in chain)
            return _fitting(recompute, {k: options(j, sizes[k]) for k, j in joints.items()}, counts)
        case RecomputeNames(names):
            return dict.fromkeys(joints, Policy(names))
        case "none":
            return dict.fromkeys(joints, KEEP_ALL)
        case "layer":
            return dict.fromkeys(joints, KEEP_NONE)
    word, layers = recompute, layers_by_kind(chain, model)
    return {k: Policy(components_of(layers[k], word)) if k in layers else KEEP_ALL for k in joints}


def options(joint: Joint, sizes: Sizes) -> list[Option]:
    """The policies for one kind of region that no other one beats, from the fewest kept bytes on."""
    groups = _groups(joint)
    found = [
        measure(joint, Policy(tuple(name for group in some for name in group), inside=False), sizes)
        for count in range(len(groups) + 1)
        for some in combinations(groups, count)
    ]
    return _best([*found, measure(joint, KEEP_NONE, sizes)])


def _groups(joint: Joint) -> list[tuple[str, ...]]:
    """The components with something to keep, each alone or with others of its first name."""
    names = dict.fromkeys(component(node) for node in cross(joint, KEEP_ALL).saved)
    if len(names) <= MOST_COMPONENTS:
        return [(name,) for name in names]
    by_first: dict[str, list[str]] = {}
    for name in names:
        by_first.setdefault(name.partition(".")[0], []).append(name)
    groups = [tuple(some) for some in by_first.values()]
    last = tuple(name for group in groups[MOST_COMPONENTS - 1 :] for name in group)
    return [*groups[: MOST_COMPONENTS - 1], *([last] if last else [])]


def measure(joint: Joint, policy: Policy, sizes: Sizes) -> Option:
    """What a policy means for one kind of region, its inputs included."""
    found, sizes = cross(joint, policy), sizes.of(joint.graph)
    again = sum(work(node, sizes) for node in found.again if not is_free(node))
    names = dict(zip(joint.inputs, joint.region.inputs, strict=True))
    given = [node for node in found.inputs if of_chain(names[node])]
    return Option(policy, sizes.held_bytes((*found.saved, *given)), again)


def _best(some: list[Option]) -> list[Option]:
    """Without those that another one beats."""
    left: list[Option] = []
    for option in sorted(some, key=lambda o: (o.kept_bytes, o.work, len(o.policy.names))):
        if not left or option.work < left[-1].work:
            left.append(option)
    return left


@dataclass(frozen=True)
class _Joined:
    kept_bytes: int
    work: int
    chosen: tuple[Option, ...]


def _fitting(
    auto: RecomputeAuto, by_kind: dict[str, list[Option]], counts: Counter[str]
) -> dict[str, Policy]:
    joined = [_Joined(0, 0, ())]
    for kind, some in by_kind.items():
        joined = _thin(_undominated(list(_joined(joined, some, counts[kind]))))
    fitting = [one for one in joined if one.kept_bytes <= auto.budget_bytes]
    if not fitting:
        raise _too_small(auto, by_kind, counts)
    best = min(fitting, key=lambda one: (one.work, one.kept_bytes))
    return {kind: option.policy for kind, option in zip(by_kind, best.chosen, strict=True)}


def _joined(before: list[_Joined], some: list[Option], count: int) -> Iterator[_Joined]:
    for one in before:
        for option in some:
            yield _Joined(
                one.kept_bytes + count * option.kept_bytes,
                one.work + count * option.work,
                (*one.chosen, option),
            )


def _undominated(some: list[_Joined]) -> list[_Joined]:
    left: list[_Joined] = []
    for one in sorted(some, key=lambda o: (o.kept_bytes, o.work)):
        if not left or one.work < left[-1].work:
            left.append(one)
    return left


def _thin(some: list[_Joined]) -> list[_Joined]:
    """At most `MOST_OPTIONS` of them, spread evenly, the first and the last among them."""
    if len(some) <= MOST_OPTIONS:
        return some
    step = (len(some) - 1) / (MOST_OPTIONS - 1)
    return [some[round(i * step)] for i in range(MOST_OPTIONS)]


def _too_small(auto: RecomputeAuto, by_kind: dict[str, list[Option]], counts: Counter[str]) -> CompileError:
    least = {kind: counts[kind] * some[0].kept_bytes for kind, some in by_kind.items()}
    parts = ", ".join(f"{counts[kind]} x {kind} {size:,}" for kind, size in least.items() if size)
    return CompileError(
        f"recompute = auto: a rank keeps at least {sum(least.values()):,} bytes from forward to backward "
        f"({parts}), which is more than the budget of {auto.budget_bytes:,}",
        auto.origin,
        "more micro-batches, more ranks, or a larger budget",
    )
