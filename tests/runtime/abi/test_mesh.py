"""The mesh: every axis is a partition of the ranks, and `index` and `size` tell of the same one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.abi.mesh import AXES, Mesh


@st.composite
def meshes(draw: st.DrawFn, world: int = 24) -> Mesh:
    """Any legal mesh of up to `world` ranks."""
    shard = draw(st.integers(1, world))
    replicate = draw(st.integers(1, world // shard))
    ranks = shard * replicate
    expert = draw(st.sampled_from([d for d in range(1, ranks + 1) if ranks % d == 0]))
    rest = ranks // expert
    expert_shard = draw(st.sampled_from([d for d in range(1, rest + 1) if rest % d == 0]))
    return Mesh(replicate=replicate, shard=shard, expert=expert, expert_shard=expert_shard)


@settings(deadline=None, max_examples=200)
@given(meshes())
def test_every_axis_holds_every_rank_once(mesh: Mesh) -> None:
    assert mesh.axes().keys() == set(AXES)
    for axis, groups in mesh.axes().items():
        assert sorted(rank for group in groups for rank in group) == list(range(mesh.world))
        assert {len(group) for group in groups} == {mesh.size(axis)}
        for group in groups:
            assert [mesh.index(axis, rank) for rank in group] == list(range(len(group)))


@settings(deadline=None, max_examples=200)
@given(meshes())
def test_axes_that_slice_the_world_meet_in_one_rank(mesh: Mesh) -> None:
    """The places on replicate and shard name a rank; so do those on the three axes of experts."""
    for axes in (("replicate", "shard"), ("expert_replicate", "expert_shard", "expert")):
        places = {tuple(mesh.index(axis, rank) for axis in axes) for rank in range(mesh.world)}
        assert len(places) == mesh.world


@settings(deadline=None, max_examples=200)
@given(meshes())
def test_owners_are_those_who_share_a_replica_of_the_experts(mesh: Mesh) -> None:
    for group in mesh.axes()["expert_owner"]:
        assert len({mesh.index("expert_replicate", rank) for rank in group}) == 1
        assert len({(mesh.index("expert_shard", r), mesh.index("expert", r)) for r in group}) == len(group)


def test_neighbours_share_the_fastest_axis() -> None:
    mesh = Mesh(replicate=2, shard=4, expert=2, expert_shard=2)
    axes = mesh.axes()
    assert axes["shard"] == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert axes["replicate"] == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert axes["expert"] == ((0, 1), (2, 3), (4, 5), (6, 7))
    assert axes["expert_shard"] == ((0, 2), (1, 3), (4, 6), (5, 7))
    assert axes["expert_replicate"] == ((0, 4), (1, 5), (2, 6), (3, 7))
    assert axes["expert_owner"] == ((0, 1, 2, 3), (4, 5, 6, 7))
    assert axes["data"] == (tuple(range(8)),)


@pytest.mark.parametrize("degrees", [(0, 1, 1, 1), (1, 1, -1, 1), (1, 4, 3, 1), (2, 2, 2, 4)], ids=str)
def test_degrees_that_do_not_divide_are_refused(degrees: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"degrees are at least 1|does not divide"):
        Mesh(*degrees)
