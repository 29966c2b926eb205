"""Buffers: the shards of all ranks hold every element of every parameter, once in every replica."""

from __future__ import annotations

from collections import Counter
from math import prod

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.abi.buffers import Buffer, Slot, lay_out, pieces
from moec.runtime.abi.mesh import Mesh

from .test_mesh import meshes

SHAPES = st.lists(st.integers(1, 5), min_size=1, max_size=2).map(tuple)
DENSE, EXPERT = ("shard", "replicate", "shard"), ("expert_shard", "expert_replicate", "expert_owner")


def dense(mesh: Mesh, shapes: list[tuple[int, ...]]) -> Buffer:
    slots = [Slot(f"p{i}", shape, 0, "normal") for i, shape in enumerate(shapes)]
    return lay_out("matrices", slots, mesh, True, DENSE, None)


def expert(mesh: Mesh, shapes: list[tuple[int, ...]], experts: int) -> Buffer:
    local = -(-experts // mesh.expert)
    slots = [Slot(f"e.{{}}.p{i}", shape, 0, "normal", experts, local) for i, shape in enumerate(shapes)]
    return lay_out("expert_matrices", slots, mesh, True, EXPERT, "expert")


def owners(buffer: Buffer, mesh: Mesh) -> Counter[tuple[str, int]]:
    """(parameter, flat index) -> how many ranks hold it."""
    found: Counter[tuple[str, int]] = Counter()
    for rank in range(mesh.world):
        for piece in pieces(buffer, "layers.3", mesh, rank):
            found.update((piece.name, piece.start + i) for i in range(piece.count))
    return found


@settings(deadline=None, max_examples=150)
@given(meshes(12), st.lists(SHAPES, min_size=1, max_size=4))
def test_dense_parameters_are_held_once_a_replica(mesh: Mesh, shapes: list[tuple[int, ...]]) -> None:
    expected = {(f"layers.3.p{i}", j) for i, shape in enumerate(shapes) for j in range(prod(shape))}
    assert owners(dense(mesh, shapes), mesh) == Counter(dict.fromkeys(expected, mesh.replicate))


@settings(deadline=None, max_examples=150)
@given(meshes(12), st.lists(SHAPES, min_size=1, max_size=3), st.integers(1, 7))
def test_experts_are_held_once_a_replica_however_many_there_are(
    mesh: Mesh, shapes: list[tuple[int, ...]], experts: int
) -> None:
    """Also where the axis of experts has more ranks than there are experts, or does not divide them."""
    expected = {
        (f"layers.3.e.{e}.p{i}", j)
        for e in range(experts)
        for i, shape in enumerate(shapes)
        for j in range(prod(shape))
    }
    found = owners(expert(mesh, shapes, experts), mesh)
    assert found == Counter(dict.fromkeys(expected, mesh.expert_replicate))


@settings(deadline=None, max_examples=100)
@given(meshes(12), st.lists(SHAPES, min_size=1, max_size=3), st.integers(1, 7))
def test_pieces_lie_in_order_inside_their_shard(
    mesh: Mesh, shapes: list[tuple[int, ...]], experts: int
) -> None:
    for buffer in (dense(mesh, shapes), expert(mesh, shapes, experts)):
        assert buffer.shard_numel * buffer.ranks == buffer.numel
        for rank in range(mesh.world):
            end = 0
            for piece in pieces(buffer, "", mesh, rank):
                assert end <= piece.offset
                assert piece.count > 0
                assert piece.start + piece.count <= prod(piece.shape)
                end = piece.offset + piece.count
            assert end <= buffer.shard_numel


def test_a_piece_says_where_its_elements_are() -> None:
    mesh = Mesh(replicate=1, shard=2, expert=1, expert_shard=1)
    buffer = dense(mesh, [(2, 3), (3,)])
    assert buffer.numel == 10
    assert [(p.name, p.start, p.count, p.offset) for p in pieces(buffer, "", mesh, 0)] == [("p0", 0, 5, 0)]
    assert [(p.name, p.start, p.count, p.offset) for p in pieces(buffer, "", mesh, 1)] == [
        ("p0", 5, 1, 0),
        ("p1", 0, 3, 1),
    ]


@pytest.mark.parametrize("path", ["e.{0.__class__}.w", "e.{:>999999999}.w", "e.{x}.w", "e.{}{}.w"])
def test_names_are_no_format_strings(path: str) -> None:
    """A name from a file is only ever looked through for `{}`."""
    mesh = Mesh(replicate=1, shard=1, expert=1, expert_shard=1)
    buffer = lay_out("b", [Slot(path, (2,), 0, "normal", 1, 1)], mesh, True, EXPERT, "expert")
    assert [piece.name for piece in pieces(buffer, "", mesh, 0)] == [path.replace("{}", "0")]
