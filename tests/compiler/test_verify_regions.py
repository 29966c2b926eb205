"""Verifiers of regions: each fault that is put into a graph is found, at its node.

A fault is a function that breaks a good graph and returns what the message has to say.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx

from moec.compiler import exchange_ops, model_ops
from moec.compiler.errors import InternalCompilerError
from moec.compiler.graph import LAYOUT, ORIGIN, VAL, PartitionedRegion, layout, set_layout
from moec.compiler.layout import AtExperts
from moec.compiler.verify.regions import verify_marked, verify_partitioned, verify_placed, verify_reference
from moec.runtime.abi.mesh import Mesh
from small_models import small_spec

from .faults import SPEC, caught, first, node
from .stages import EIGHT_RANKS, marked, partitioned, placed, reference

# --- reference ---


def foreign_operation(graph: fx.Graph) -> str:
    node(graph, "gated").target = torch.mul
    return f"%gated (small.moe:11) {torch.mul} is no operation of this level"


def collective_in_reference(graph: fx.Graph) -> str:
    node(graph, "expert_load").target = exchange_ops.all_reduce
    return "is no operation of this level"


def wrong_shape(graph: fx.Graph) -> str:
    node(graph, "linear").meta[VAL] = node(graph, "linear_1").meta[VAL]
    return "%linear (small.moe:8) computes torch.float64 (18, 16), but says torch.float64 (18, 8)"


def no_value(graph: fx.Graph) -> str:
    del graph.output_node().meta[VAL]
    return "%output has no value"


def no_line(graph: fx.Graph) -> str:
    del node(graph, "add").meta[ORIGIN]
    return "%add has no line of the .moe file"


def lost_output(graph: fx.Graph) -> str:
    output = graph.output_node()
    (returned,) = output.args
    assert isinstance(returned, tuple)
    output.args = (returned[:-1],)
    return "%output returns 3 values, the contract names 4"


def lost_input(graph: fx.Graph) -> str:
    node(graph, "aux").replace_all_uses_with(node(graph, "balance_loss"))
    graph.erase_node(node(graph, "aux"))
    accumulated = node(graph, "accumulate")
    accumulated.args = (accumulated.args[1], accumulated.args[1])
    return "%output takes 4 values, the contract names 5"


@pytest.mark.parametrize(
    "fault",
    [foreign_operation, collective_in_reference, wrong_shape, no_value, no_line, lost_output, lost_input],
)
def test_reference(fault: Callable[[fx.Graph], str]) -> None:
    region = reference(SPEC).kinds["layer_0"]
    verify_reference(region)
    caught(lambda: verify_reference(region), fault(region.graph))


# --- place and insert_redistribution ---


def swapped_layout(region: PartitionedRegion) -> str:
    set_layout(node(region.graph, "dispatch"), AtExperts("expert"))
    return "%dispatch (small.moe:10) says at experts(expert), but gives batch"


def lost_layout(region: PartitionedRegion) -> str:
    del node(region.graph, "gated").meta[LAYOUT]
    return "%gated (small.moe:11) has no layout"


def summand_that_says_whole(region: PartitionedRegion) -> str:
    set_layout(node(region.graph, "expert_load"), layout(node(region.graph, "micro_tokens")))
    return "%expert_load (small.moe:10) says whole, but gives partial(data)"


def joined_layouts(region: PartitionedRegion) -> str:
    gate = node(region.graph, "gated")
    gate.args = (gate.args[0], node(region.graph, "dispatch"))
    return "%gated (small.moe:11) says at experts(expert), but gives no layout"


@pytest.mark.parametrize("fault", [swapped_layout, lost_layout, summand_that_says_whole, joined_layouts])
def test_placed(fault: Callable[[PartitionedRegion], str]) -> None:
    region = placed(SPEC, EIGHT_RANKS)
    verify_placed(region, EIGHT_RANKS)
    message = fault(region)
    caught(lambda: verify_placed(region, EIGHT_RANKS), message)


def lost_mark(region: PartitionedRegion) -> str:
    mark = first(region.graph, exchange_ops.redistribute)
    source = mark.args[0]
    assert isinstance(source, fx.Node)
    mark.replace_all_uses_with(source)
    return "%expert_mm (small.moe:11) argument 0, %dispatch, is not at experts(expert)"


def mark_of_another_layout(region: PartitionedRegion) -> str:
    mark = first(region.graph, exchange_ops.redistribute)
    set_layout(mark, AtExperts("shard"))
    return "%expert_mm (small.moe:11) argument 0, %redistribute, is not at experts(expert)"


def test_a_bias_needs_the_rows_of_its_experts() -> None:
    """Also where the rows come from something else than a product."""
    region = marked(small_spec("gpt-oss"), EIGHT_RANKS)
    verify_marked(region, EIGHT_RANKS)
    bias = first(region.graph, model_ops.expert_add)
    bias.args = (node(region.graph, "dispatch"), *bias.args[1:])
    message = "%expert_add (small.moe:11) argument 0, %dispatch, is not at experts(expert)"
    caught(lambda: verify_marked(region, EIGHT_RANKS), message)


@pytest.mark.parametrize("fault", [lost_mark, mark_of_another_layout])
def test_marked(fault: Callable[[PartitionedRegion], str]) -> None:
    region = marked(SPEC, EIGHT_RANKS)
    verify_marked(region, EIGHT_RANKS)
    message = fault(region)
    caught(lambda: verify_marked(region, EIGHT_RANKS), message)


# --- partitioned ---


def skipped(region: PartitionedRegion, name: str) -> None:
    """Users of a node take its first argument instead."""
    source = node(region.graph, name).args[0]
    assert isinstance(source, fx.Node)
    node(region.graph, name).replace_all_uses_with(source)


def rows_stay(region: PartitionedRegion) -> str:
    skipped(region, "all_to_all")
    return "%permute_rows (small.moe:11) says at experts(expert), but gives batch"


def rows_do_not_return(region: PartitionedRegion) -> str:
    skipped(region, "all_to_all_1")
    return "%combine (small.moe:10) argument 0, %permute_rows_1, is not batch"


def choices_of_one_rank(region: PartitionedRegion) -> str:
    skipped(region, "all_reduce")
    return "%balance_loss (small.moe:14) argument 0, %expert_load, is not whole"


def exchange_over_another_axis(region: PartitionedRegion) -> str:
    there = node(region.graph, "all_to_all")
    there.args = (*there.args[:-1], "shard")
    return "%all_to_all (small.moe:11) says at experts(expert), but gives at experts(shard)"


def return_over_another_axis(region: PartitionedRegion) -> str:
    back = node(region.graph, "all_to_all_1")
    back.args = (*back.args[:-1], "shard")
    return "%all_to_all_1 (small.moe:10) says batch, but gives no layout"


def sum_over_another_axis(region: PartitionedRegion) -> str:
    total = node(region.graph, "all_reduce")
    total.args = (total.args[0], "replicate")
    return "%all_reduce (small.moe:14) says whole, but gives no layout"


def sum_over_no_axis(region: PartitionedRegion) -> str:
    total = node(region.graph, "all_reduce")
    total.args = (total.args[0], "world")
    return "%all_reduce (small.moe:14) moves data over world, which has no second rank"


def sum_that_is_none(region: PartitionedRegion) -> str:
    """What is whole already would count once for every rank."""
    total = node(region.graph, "all_reduce")
    total.args = (node(region.graph, "micro_tokens"), "data")
    return "%all_reduce (small.moe:14) says whole, but gives no layout"


def mark_left(region: PartitionedRegion) -> str:
    node(region.graph, "all_reduce").target = exchange_ops.redistribute
    return "is no operation of this level"


def counts_of_the_sender(region: PartitionedRegion) -> str:
    """The products take the counts of rows that left instead of those that arrived."""
    product = node(region.graph, "expert_mm")
    product.args = (*product.args[:2], node(region.graph, "getitem_4"))
    return "%expert_mm (small.moe:11) argument 2, %getitem_4, is not at experts(expert)"


def output_in_another_layout(region: PartitionedRegion) -> str:
    output = region.graph.output_node()
    (returned,) = output.args
    assert isinstance(returned, tuple)
    output.args = ((node(region.graph, "permute_rows"), *returned[1:]),)
    return "%output returns x at experts(expert), not batch"


@pytest.mark.parametrize(
    "fault",
    [
        rows_stay, rows_do_not_return, choices_of_one_rank, exchange_over_another_axis,
        return_over_another_axis, sum_over_another_axis, sum_over_no_axis, sum_that_is_none, mark_left,
        counts_of_the_sender, output_in_another_layout,
    ],
)  # fmt: skip
def test_partitioned(fault: Callable[[PartitionedRegion], str]) -> None:
    region = partitioned(SPEC, EIGHT_RANKS)
    verify_partitioned(region, EIGHT_RANKS)
    message = fault(region)
    caught(lambda: verify_partitioned(region, EIGHT_RANKS), message)


def test_a_collective_needs_a_second_rank() -> None:
    region = partitioned(SPEC, EIGHT_RANKS)
    alone = Mesh(replicate=1, shard=1, expert=1, expert_shard=1)
    with pytest.raises(InternalCompilerError, match="moves data over expert, which has no second rank"):
        verify_partitioned(region, alone)
