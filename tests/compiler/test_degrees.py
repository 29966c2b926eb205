"""Degrees: every legal combination makes a mesh, every other one an error with the rule and its numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.compiler.errors import CompileError
from moec.compiler.plan.degrees import resolve_degrees
from moec.dsl import load_text
from moec.dsl.spec import ParallelSpec
from moec.runtime.abi.mesh import Mesh
from small_models import small_text

GOLDENS = Path(__file__).parent / "goldens"
DEGREES = st.integers(1, 12)

LEGAL: dict[str, tuple[str, int | None, tuple[int, int, int, int]]] = {
    # text, ranks -> replicate, shard, expert, expert_shard
    "nothing given": ("", None, (1, 1, 1, 1)),
    "the product is the world": ("shard = 2 replicate = 3", None, (3, 2, 1, 2)),
    "experts inside a shard group": ("expert = 2 shard = 4 replicate = 1", None, (1, 4, 2, 2)),
    "experts across shard groups": ("expert = 8 shard = 2 replicate = 4", None, (4, 2, 8, 1)),
    "experts over the whole world": ("expert = rest shard = 2 replicate = 2", 4, (2, 2, 4, 1)),
    "replicate takes the rest": ("expert = 8 shard = 32 replicate = rest", 512, (16, 32, 8, 4)),
    "replicate takes the rest unasked": ("expert = 8 shard = 32", 512, (16, 32, 8, 4)),
    "shard takes the rest": ("shard = rest replicate = 2", 6, (2, 3, 1, 3)),
    "an expert_shard of its own": (
        "expert = 2 shard = 32 replicate = 2 expert_shard = 32",
        None,
        (2, 32, 2, 32),
    ),
    "expert does not divide shard": ("expert = 3 shard = 10 replicate = 3", None, (3, 10, 3, 1)),
}

ILLEGAL: dict[str, tuple[str, int | None]] = {
    "rest of an unknown world": ("shard = rest", None),
    "too few ranks": ("shard = 4 replicate = 2", 4),
    "too many ranks": ("shard = 4 replicate = 2", 16),
    "ranks that shard does not divide": ("shard = 4 replicate = 2", 6),
    "a rest that does not divide": ("shard = 4 replicate = rest", 6),
    "another rest that does not divide": ("shard = rest replicate = 4", 6),
    "expert does not divide the world": ("expert = 3 shard = 4 replicate = 2", None),
    "more experts than ranks": ("expert = 16 shard = 4 replicate = 2", None),
    "experts and no ranks for them": ("expert = 6 shard = 4", None),
    "expert_shard does not divide": ("expert = 2 expert_shard = 3 shard = 4 replicate = 2", None),
}


def parallel(text: str) -> ParallelSpec:
    settings_of = text.replace(" = ", "=").split()
    return load_text(small_text() + "parallel {\n" + "\n".join(settings_of) + "\n}\n", "small.moe").parallel


@pytest.mark.parametrize("name", LEGAL)
def test_legal(name: str) -> None:
    text, ranks, expected = LEGAL[name]
    assert resolve_degrees(parallel(text), ranks) == Mesh(*expected)


def test_illegal(golden: Callable[[str, Path], None]) -> None:
    """Each message names the line, the rule with its numbers, and what would be legal."""
    messages = []
    for name, (text, ranks) in ILLEGAL.items():
        with pytest.raises(CompileError) as error:
            resolve_degrees(parallel(text), ranks)
        assert error.value.exit_code == 1
        given_ranks = "" if ranks is None else f" on {ranks} ranks"
        messages.append(f"--- {name}: {text}{given_ranks}\n{error.value}\n")
    golden("\n".join(messages), GOLDENS / "degrees.txt")


@settings(deadline=None, max_examples=300)
@given(
    st.none() | DEGREES, st.none() | DEGREES, st.none() | DEGREES, st.none() | DEGREES, st.none() | DEGREES
)
def test_degrees_make_a_mesh_of_all_ranks_or_an_error(
    expert: int | None, shard: int | None, replicate: int | None, expert_shard: int | None, ranks: int | None
) -> None:
    if shard is None and replicate is None:
        shard = 1  # the checker lets only one degree be the rest
    degrees = ParallelSpec(expert, shard, replicate, expert_shard, replicate_given=True)
    try:
        mesh = resolve_degrees(degrees, ranks)
    except CompileError:
        return
    assert ranks in (None, mesh.world)
    for name in ("expert", "shard", "replicate", "expert_shard"):
        assert getattr(degrees, name) in (None, getattr(mesh, name))


@settings(deadline=None, max_examples=200)
@given(DEGREES, DEGREES, st.data())
def test_what_divides_the_world_needs_no_expert_shard(
    shard: int, replicate: int, data: st.DataObject
) -> None:
    world = shard * replicate
    expert = data.draw(st.sampled_from([d for d in range(1, world + 1) if world % d == 0]))
    mesh = resolve_degrees(ParallelSpec(expert=expert, shard=shard, replicate=replicate), None)
    if shard % expert == 0:
        assert mesh.expert_shard == shard // expert


@settings(deadline=None, max_examples=100)
@given(DEGREES, DEGREES, DEGREES, DEGREES)
def test_what_an_error_calls_legal_is_legal(
    shard: int, replicate: int, expert: int, expert_shard: int
) -> None:
    degrees = ParallelSpec(expert, shard, replicate, expert_shard)
    for _ in range(2):  # one error may hide behind another
        for name, value in advised(degrees):
            degrees = replace(degrees, **{name: value})
    resolve_degrees(degrees, None)


def advised(degrees: ParallelSpec) -> Iterator[tuple[str, Any]]:
    """The name of the degree that is wrong, and the largest value that would be right."""
    try:
        resolve_degrees(degrees, None)
    except CompileError as error:
        found = re.match(r"legal values of (\w+): ([\d, ]+)", error.advice)
        if found is None:
            raise
        yield found[1], int(found[2].split(", ")[-1])


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("degrees", "ranks", "message"),
    [
        ({"shard": 1_048_576, "replicate": 1_048_576, "expert": 3}, None, "at most 1048576 are supported"),
        ({"shard": 3, "replicate": 2}, 10_000_000_000, "at most 1048576 are supported"),
        ({"shard": 720_720, "expert": 17}, None, "legal values of expert: 1, 2, 3, 4"),
    ],
)
def test_absurd_degrees_answer_at_once(degrees: dict[str, int], ranks: int | None, message: str) -> None:
    with pytest.raises(CompileError) as error:
        resolve_degrees(ParallelSpec(**degrees, replicate_given=True), ranks)

    assert message in f"{error.value}"
