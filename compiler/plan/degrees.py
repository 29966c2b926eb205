"""All rules about parallel degrees: what a user wrote -> a `Mesh`, or the equation that does not hold."""

from __future__ import annotations

from math import gcd, isqrt, lcm

from moec.compiler.errors import CompileError
from moec.dsl.spec import ParallelSpec
from moec.runtime.abi.mesh import Mesh

MAX_RANKS = 1 << 20
MOST_LISTED = 16


def resolve_degrees(parallel: ParallelSpec, ranks: int | None) -> Mesh:
    """The mesh of `parallel` on `ranks` ranks; None stands for the product of the degrees."""
    rest = [name for name in ("expert", "shard", "replicate") if getattr(parallel, name) is None]
    if rest and ranks is None:
        raise CompileError(
            f"{rest[0]} = rest needs the number of ranks", parallel.at(rest[0]), "give --ranks N, or a number"
        )
    replicate, shard = _dense_degrees(parallel, ranks)
    world = replicate * shard
    if max(world, ranks or 0) > MAX_RANKS:
        message = f"{max(world, ranks or 0)} ranks: at most {MAX_RANKS} are supported"
        raise CompileError(message, parallel.at("shard", "replicate"))
    if ranks is not None and world != ranks:
        raise CompileError(
            f"replicate * shard = {replicate} * {shard} = {world}, but there are {ranks} ranks",
            parallel.at("shard", "replicate"),
            _nearest_help(parallel, ranks),
        )
    expert = world if parallel.expert is None else parallel.expert
    if world % expert:
        raise CompileError(
            f"expert must divide replicate * shard: {world} = {replicate} * {shard} "
            f"is no multiple of {expert}",
            parallel.at("expert"),
            _expert_help(parallel, ranks, world, expert),
        )
    expert_shard = parallel.expert_shard or gcd(max(1, shard // expert), world // expert)
    if world % (expert * expert_shard):
        raise CompileError(
            "expert * expert_shard must divide replicate * shard: "
            f"{expert} * {expert_shard} = {expert * expert_shard} does not divide "
            f"{replicate} * {shard} = {world}",
            parallel.at("expert_shard", "expert"),
            f"legal values of expert_shard: {_listed(_divisors(world // expert))}",
        )
    return Mesh(replicate=replicate, shard=shard, expert=expert, expert_shard=expert_shard)


def _dense_degrees(parallel: ParallelSpec, ranks: int | None) -> tuple[int, int]:
    """(replicate, shard), with `rest` filled in, and a `replicate` that was not given."""
    replicate, shard = parallel.replicate, parallel.shard
    if not parallel.replicate_given and ranks is not None and shard is not None and ranks % shard == 0:
        return ranks // shard, shard
    if replicate is None:
        replicate = _rest("replicate", "shard", shard, ranks, parallel)
    if shard is None:
        shard = _rest("shard", "replicate", replicate, ranks, parallel)
    return replicate, shard


def _rest(name: str, other: str, degree: int | None, ranks: int | None, parallel: ParallelSpec) -> int:
    assert ranks is not None
    assert degree is not None
    if ranks % degree:
        raise CompileError(
            f"{name} = rest: {ranks} ranks are no multiple of {other} = {degree}",
            parallel.at(name),
            f"legal values of {other}: {_listed(_divisors(ranks))}",
        )
    return ranks // degree


def _nearest_help(parallel: ParallelSpec, ranks: int) -> str:
    shard = parallel.shard or 1
    if ranks % shard == 0:
        return f"replicate = {ranks // shard}, or replicate = rest"
    nearest = min(_divisors(ranks), key=lambda d: abs(d - shard))
    return f"shard = {nearest} and replicate = {ranks // nearest}"


def _expert_help(parallel: ParallelSpec, ranks: int | None, world: int, expert: int) -> str:
    legal = f"legal values of expert: {_listed(_divisors(world))}"
    if ranks is not None or parallel.replicate_given:
        return legal
    return (
        f"{legal}; or give more ranks: --ranks {lcm(world, expert)}, or -n {lcm(world, expert)} to run here"
    )


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _listed(divisors: list[int]) -> str:
    """All of them, or the first ones of many."""
    text = ", ".join(map(str, divisors[:MOST_LISTED]))
    return f"{text}, ..., {divisors[-1]}" if len(divisors) > MOST_LISTED else text
