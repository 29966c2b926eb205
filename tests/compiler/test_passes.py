"""Passes: graphs before and after each, and what they promise for every mesh."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import fx

from moec.compiler import exchange_ops, model_ops
from moec.compiler.dump import dump_region
from moec.compiler.graph import Region, layout, origin, parameter_path, value
from moec.compiler.layout import AtExperts, Batch, Partial, Whole
from moec.compiler.passes.insert_redistribution import insert_redistribution
from moec.compiler.passes.lower_redistribution import lower_redistribution
from moec.compiler.passes.place import place
from moec.compiler.passes.propagate import propagate
from moec.compiler.passes.split_collectives import split_collectives
from moec.runtime.abi.mesh import Mesh
from small_models import VARIANTS, small_spec

from .stages import EIGHT_RANKS, ONE_RANK, marked, partitioned, placed, reference

GOLDENS = Path(__file__).parent / "goldens"
Golden = Callable[[str, Path], None]
COLLECTIVES = (exchange_ops.all_to_all, exchange_ops.all_reduce, exchange_ops.exchange_counts)


def test_a_layer_through_the_passes(golden: Golden) -> None:
    """Before, and after each pass: parameters cut, layouts, marks, collectives."""
    region = reference(small_spec("per layer")).kinds["layer_0"]
    texts = {"reference": dump_region(region)}
    here = place(region, EIGHT_RANKS)
    propagate(here)
    texts["place"] = dump_region(here)
    insert_redistribution(here, EIGHT_RANKS)
    texts["insert_redistribution"] = dump_region(here)
    lower_redistribution(here, EIGHT_RANKS)
    propagate(here)
    texts["lower_redistribution"] = dump_region(here)
    golden("\n".join(f"=== {name}\n{text}\n" for name, text in texts.items()), GOLDENS / "passes.txt")


def test_split_collectives(golden: Golden) -> None:
    """Each collective becomes a start half and a wait half, in its place."""
    graph = fx.Graph()
    x, counts = graph.placeholder("x"), graph.placeholder("counts")
    there = graph.call_function(torch.ops.moec.all_to_all.default, (x, counts, counts, 8, "expert"))
    twice = graph.call_function(torch.ops.aten.add.Tensor, (there, there))
    total = graph.call_function(torch.ops.moec.all_reduce.default, (twice, "data"))
    whole = graph.call_function(torch.ops.moec.shard_gather.default, (total, 4, "shard"))
    part = graph.call_function(torch.ops.moec.reduce_scatter.default, (whole, 4, "shard"))
    graph.output((there, part))
    before = str(graph)
    split_collectives(graph)
    graph.lint()
    golden(f"before{before}\n\nafter{graph}\n", GOLDENS / "split_collectives.txt")


def test_split_collectives_keeps_what_nodes_carry() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    total = graph.call_function(torch.ops.moec.all_reduce.default, (x, "data"))
    total.meta = {"val": torch.empty(3), "origin": "here"}
    graph.output((total,))
    split_collectives(graph)
    _, start, wait, _ = graph.nodes
    assert start.meta == {"origin": "here"}
    assert wait.meta.keys() == {"val", "origin"}


def operations(region: Region) -> Counter[str]:
    found = [node.target for node in region.nodes() if node.op == "call_function"]
    return Counter(getattr(target, "__name__", "") for target in found)


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_rank_needs_no_collective(variant: str) -> None:
    """On one rank, the partitioned graph is the reference graph."""
    for kind, region in reference(small_spec(variant)).kinds.items():
        assert operations(partitioned(small_spec(variant), ONE_RANK, kind)) == operations(region)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("expert", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_collectives_of_a_region(variant: str, expert: int) -> None:
    """Experts elsewhere: counts once, rows there and back. A loss of the whole batch: its choices summed."""
    mesh = Mesh(replicate=2, shard=4, expert=expert, expert_shard=1)
    for kind, region in reference(small_spec(variant)).kinds.items():
        found = operations(partitioned(small_spec(variant), mesh, kind))
        moves = found["group_by_expert"] == 1
        assert found["exchange_counts"] == (1 if moves else 0)
        assert found["all_to_all"] == (2 if moves else 0)
        assert found["all_reduce"] == found["balance_loss"]
        assert operations(region) - found == Counter()


def test_a_value_is_redistributed_once_for_all_who_need_it() -> None:
    """Rows go to two products, counts to three."""
    marks = [n for n in marked(small_spec(), EIGHT_RANKS).nodes() if n.target is exchange_ops.redistribute]
    assert [(mark.args[0].name, len(mark.users)) for mark in marks] == [  # type: ignore[union-attr]
        ("dispatch", 2),
        ("getitem_4", 3),
        ("expert_mm_2", 1),
    ]
    assert [str(layout(mark)) for mark in marks] == ["at experts(expert)", "at experts(expert)", "batch"]


def test_layouts_say_where_values_are() -> None:
    region = placed(small_spec("per layer"), EIGHT_RANKS)
    found = {node.name: layout(node) for node in region.nodes() if node.op != "output"}
    assert found["attention_q"] == Whole()
    assert found["experts_expert_each_gate"] == AtExperts("expert")
    assert found["dispatch"] == Batch()
    assert found["expert_mm"] == found["gated"] == AtExperts("expert")
    assert found["expert_load"] == found["balance_loss"] == Partial("data")
    assert found["micro_tokens"] == Whole()
    assert found["add_1"] == Batch()


def test_what_follows_rows_to_experts() -> None:
    """Products and their biases, and a norm of their outputs, whose weight is that of all experts."""
    region = placed(small_spec("latent", network="mlp(12, bias: true)"), EIGHT_RANKS)
    found = {node.name: layout(node) for node in region.nodes() if node.op != "output"}
    at_experts = ("expert_mm", "expert_add", "activate", "expert_mm_1", "expert_add_1", "layer_norm")
    assert {found[name] for name in at_experts} == {AtExperts("expert")}
    assert found["experts_expert_each_up_bias"] == AtExperts("expert")
    assert found["experts_expert_norm"] == Whole()
    assert found["dispatch"] == found["combine"] == found["with_room"] == Batch()


def test_weights_multiply_rows_before_they_travel() -> None:
    region = partitioned(small_spec("weighed input"), EIGHT_RANKS)
    (there, back) = (n for n in region.nodes() if n.target is exchange_ops.all_to_all)
    assert there.args[0].target is model_ops.weigh_rows  # type: ignore[union-attr]
    assert back.args[3] == value(there.args[0]).shape[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(("mesh", "tail"), [(ONE_RANK, True), (EIGHT_RANKS, False)], ids=["one", "eight"])
def test_what_is_not_sent_does_not_arrive(mesh: Mesh, tail: bool) -> None:
    """Where rows stay, those of no expert follow the others; experts elsewhere get their own rows only."""
    region = partitioned(small_spec("identity and capacity"), mesh)
    tails = {node.args[3] for node in region.nodes() if node.target is model_ops.expert_mm}
    assert tails == {tail}


@pytest.mark.parametrize(("expert", "local"), [(1, 5), (2, 3), (4, 2), (8, 1)])
def test_experts_are_cut_alike_for_all_ranks(expert: int, local: int) -> None:
    """Five experts on so many ranks: rounded up, so that all ranks have one program."""
    mesh = Mesh(replicate=1, shard=8, expert=expert, expert_shard=1)
    region = placed(small_spec("uneven experts"), mesh)
    stored = {parameter_path(n): tuple(value(n).shape) for n in region.parameter_nodes()}
    assert stored["experts.expert.{}.gate"] == (local, 12, 16)
    assert stored["experts.expert.{}.down"] == (local, 16, 12)
    assert stored["experts.router"] == (5, 16)
    (group,) = (n for n in region.nodes() if n.target is model_ops.group_by_expert)
    assert value(group)[2].shape == (local * expert,)
    assert group.args[1] == 5
    loads = [value(n).shape for n in region.nodes() if n.target is model_ops.expert_load]
    assert loads == [(5,)]


def test_place_leaves_the_reference_as_it_is() -> None:
    region = reference(small_spec()).kinds["layer_0"]
    before = dump_region(region)
    lowered = place(region, EIGHT_RANKS)
    propagate(lowered)
    insert_redistribution(lowered, EIGHT_RANKS)
    lower_redistribution(lowered, EIGHT_RANKS)
    assert dump_region(region) == before


def test_only_the_rows_that_arrive_depend_on_data() -> None:
    """One unknown size a region: what this rank receives."""
    region = partitioned(small_spec(), EIGHT_RANKS)
    unknown = set()
    for node in region.nodes():
        for found in torch.utils._pytree.tree_leaves(value(node)):
            if isinstance(found, torch.Tensor):
                unknown |= {str(size) for size in found.shape if not isinstance(size, int)}
    assert len(unknown) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_collectives_have_lines_of_the_text(variant: str) -> None:
    region = partitioned(small_spec(variant), EIGHT_RANKS)
    assert all(origin(node).line > 0 for node in region.nodes() if node.target in COLLECTIVES)
