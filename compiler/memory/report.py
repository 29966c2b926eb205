"""What a compilation keeps in memory, as text: `moec show SPEC --stage memory`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from moec.compiler.differentiate.policy import is_free
from moec.compiler.differentiate.split import forward_of
from moec.compiler.differentiate.trace import Joint
from moec.compiler.pipeline import Compiled
from moec.dsl.spec import Recompute

from .choose import choose, measure
from .kept import Footprint, Value
from .predict import Prediction, predict
from .sizes import Sizes, sizes_by_kind
from .work import work

_WORDS: tuple[Recompute, ...] = ("none", "attention", "experts", "layer")
_HEAD = "What a rank keeps from forward to backward, of one micro-batch, in bytes."
_BALANCED = "Rows of experts are counted at balanced routing, on a rank that holds as many experts as any."


def memory_text(compiled: Compiled) -> str:
    """By kind of region and component, in all, at its peak; and what other policies would keep."""
    predicted = predict(compiled.micro_batch, compiled.reference.chain, compiled.footprints)
    return "\n".join(
        [_HEAD, _BALANCED, "", *_kinds(compiled), "", *_totals(compiled, predicted), "", *_policies(compiled)]
    )


def _kinds(compiled: Compiled) -> Iterator[str]:
    counts = Counter(kind for _, kind in compiled.reference.chain)
    for kind, found in compiled.footprints.items():
        times = f"{counts[kind]} x " if counts[kind] > 1 else ""
        yield f"{times}{kind}: {found.kept_bytes:,}; made again: {compiled.policies[kind]}"
        for component, size in _by_component(found).items():
            yield f"    {component:<24} {size:>18,}"


def _by_component(found: Footprint) -> dict[str, int]:
    """What is kept of every component; a piece of memory that several values share counts for the first."""
    seen, sizes = set[int](), dict[str, int]()
    named = [*(("given to it", value) for value in found.inputs), *((_name(v), v) for v in found.saved)]
    for name, value in named:
        new = {key: size for key, size in value.memory.items() if key not in seen}
        seen |= new.keys()
        sizes[name] = sizes.get(name, 0) + sum(new.values())
    return {name: size for name, size in sizes.items() if size}


def _name(value: Value) -> str:
    return value.component or "the rest"


def _totals(compiled: Compiled, predicted: Prediction) -> Iterator[str]:
    computed = [found.computed_bytes for found in compiled.footprints.values()]
    rows = {
        "all regions": predicted.kept_bytes,
        "most on the device at a time": predicted.saved_bytes,
        "most in host memory": predicted.host_bytes,
        "most of gathered parameters": predicted.gathered_bytes,
        "most in a region's forward": max(found["forward"] for found in computed),
        "most in a region's backward": max(found["backward"] for found in computed),
    }
    return (f"{name:<28} {size:>18,}" for name, size in rows.items())


def _policies(compiled: Compiled) -> Iterator[str]:
    joints, chain = compiled.joints, compiled.reference.chain
    sizes = sizes_by_kind(compiled.reference, compiled.spec.model, compiled.plan.mesh)
    counts = Counter(kind for _, kind in chain)
    forward = sum(counts[kind] * _forward_work(joint, sizes[kind]) for kind, joint in joints.items())
    yield f"{'recompute':<28} {'kept':>18} {'done again, of forward':>24}"
    chosen = compiled.plan.memory.recompute
    for recompute in dict.fromkeys((*_WORDS, chosen)):
        policies = choose(recompute, joints, compiled.spec.model, chain, sizes)
        found = {kind: measure(joint, policies[kind], sizes[kind]) for kind, joint in joints.items()}
        kept = sum(counts[kind] * option.kept_bytes for kind, option in found.items())
        again = sum(counts[kind] * option.work for kind, option in found.items())
        name = recompute if isinstance(recompute, str) else "as written"
        mark = "  <- this" if recompute == chosen else ""
        yield f"{name:<28} {kept:>18,} {again / max(forward, 1):>23.1%}{mark}"


def _forward_work(joint: Joint, sizes: Sizes) -> int:
    """Of all that the outputs of a region take."""
    sizes = sizes.of(joint.graph)
    return sum(work(node, sizes) for node in forward_of(joint) if not is_free(node))
