"""Verifiers of what becomes a program: each fault that is put into a graph is found, at its node.

A fault is a function that breaks a good graph and returns what the message has to say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import fx

from moec.compiler import model_ops
from moec.compiler.differentiate.bind import DifferentiatedRegion
from moec.compiler.errors import InternalCompilerError
from moec.compiler.pipeline import Compiled, compile_spec
from moec.compiler.verify.differentiated import verify_differentiated
from moec.compiler.verify.schedule import verify_buffers, verify_micro_batch, verify_step
from moec.runtime.abi import machine_ops
from moec.runtime.abi.buffers import Buffer
from small_models import small_spec

from .faults import SPEC, caught, first, node
from .stages import EIGHT_RANKS, differentiated

# --- differentiated ---


def starts(graph: fx.Graph) -> list[fx.Node]:
    return [n for n in graph.nodes if n.target is machine_ops.all_to_all_start]


def missing_wait(region: DifferentiatedRegion) -> str:
    start = starts(region.backward)[0]
    (wait,) = start.users
    source = start.args[0]
    assert isinstance(source, fx.Node)
    wait.replace_all_uses_with(source)
    region.backward.erase_node(wait)
    return f"%{start.name} (small.moe:10) is waited for 0 times"


def double_wait(region: DifferentiatedRegion) -> str:
    start = starts(region.forward)[0]
    (wait,) = start.users
    with region.forward.inserting_after(wait):
        region.forward.call_function(machine_ops.wait, (start,))
    return f"%{start.name} (small.moe:11) is waited for 2 times"


def use_before_the_wait(region: DifferentiatedRegion) -> str:
    start = starts(region.forward)[1]
    user = first(region.forward, torch.ops.moec.permute_rows.default)
    user.args = (start, *user.args[1:])
    return f"%{start.name} (small.moe:11) is waited for 1 times"


def view_past_the_end(region: DifferentiatedRegion) -> str:
    view = first(region.forward, machine_ops.parameter)
    view.args = (view.args[0], 30, view.args[2])
    return f"%{view.name} (small.moe:18) reaches past the end of vectors"


def view_before_the_start(region: DifferentiatedRegion) -> str:
    view = first(region.backward, machine_ops.parameter)
    view.args = (view.args[0], -1, view.args[2])
    return "reaches past the end of vectors"


def not_in_the_instruction_set(region: DifferentiatedRegion) -> str:
    silu = first(region.forward, torch.ops.aten.silu.default)
    silu.target = torch.ops.aten.mish.default
    return f"%{silu.name} (small.moe:11) aten.mish.default is not in the instruction set"


def model_level_operation(region: DifferentiatedRegion) -> str:
    silu = first(region.forward, torch.ops.aten.silu.default)
    silu.target = model_ops.softmax
    return "is not in the instruction set"


def lost_saved_value(region: DifferentiatedRegion) -> str:
    output = region.forward.output_node()
    (returned,) = output.args
    assert isinstance(returned, tuple)
    output.args = (returned[:-1],)
    return f"%output returns {len(returned) - 1} values, the contract names {len(returned)}"


def value_from_nowhere(region: DifferentiatedRegion) -> str:
    """A port that the contract does not name."""
    first = next(iter(region.backward.nodes))
    with region.backward.inserting_before(first):
        region.backward.placeholder("smuggled")
    return "%output takes "


@pytest.mark.parametrize(
    "fault",
    [
        missing_wait, double_wait, use_before_the_wait, view_past_the_end, view_before_the_start,
        not_in_the_instruction_set, model_level_operation, lost_saved_value, value_from_nowhere,
    ],
)  # fmt: skip
def test_differentiated(fault: Callable[[DifferentiatedRegion], str]) -> None:
    region = differentiated(SPEC, EIGHT_RANKS)
    verify_differentiated(region)
    message = fault(region)
    caught(lambda: verify_differentiated(region), message)


# --- micro-batch and step ---


@pytest.fixture
def compiled() -> Compiled:
    return compile_spec(SPEC)


def added_twice(graph: fx.Graph) -> str:
    addition = first(graph, machine_ops.accumulate_)
    with graph.inserting_after(addition):
        graph.call_function(machine_ops.accumulate_, addition.args)
    return "%head_vectors_gradient is added to 2 times, used 2 times"


def never_added(graph: fx.Graph) -> str:
    graph.erase_node(first(graph, machine_ops.accumulate_))
    return "%head_vectors_gradient is added to 0 times, used 0 times"


def not_reduced(graph: fx.Graph) -> str:
    addition = first(graph, machine_ops.accumulate_)
    _, wait = addition.args
    assert isinstance(wait, fx.Node)
    (start,) = wait.all_input_nodes
    addition.args = (addition.args[0], start.args[0])
    return "%accumulate_ (small.moe:22) adds what went through [], not ['reduce-scatter over shard']"


def reduced_over_another_axis(graph: fx.Graph) -> str:
    _, wait = first(graph, machine_ops.accumulate_).args
    assert isinstance(wait, fx.Node)
    (start,) = wait.all_input_nodes
    start.args = (*start.args[:-1], "replicate")
    return "%accumulate_ (small.moe:22) adds what went through ['reduce-scatter over replicate'], not"


def another_collective(graph: fx.Graph) -> str:
    _, wait = first(graph, machine_ops.accumulate_).args
    assert isinstance(wait, fx.Node)
    (start,) = wait.all_input_nodes
    start.target, start.args = machine_ops.all_reduce_start, (start.args[0], "shard")
    return "%accumulate_ (small.moe:22) adds what went through ['all_reduce_start'], not"


def gathered_over_another_axis(graph: fx.Graph) -> str:
    gather = first(graph, machine_ops.shard_gather_start)
    gather.args = (*gather.args[:-1], "replicate")
    return "%shard_gather_start (small.moe:1) does not gather %embed_matrices_parameter over shard"


def not_gathered(graph: fx.Graph) -> str:
    gather = first(graph, machine_ops.shard_gather_start)
    shard, (wait,) = gather.args[0], gather.users
    assert isinstance(shard, fx.Node)
    wait.replace_all_uses_with(shard)
    graph.erase_node(wait)
    graph.erase_node(gather)
    return "%embed_forward (small.moe:1) does not gather %embed_matrices_parameter over shard"


@pytest.mark.parametrize(
    "fault",
    [
        added_twice, never_added, not_reduced, reduced_over_another_axis, another_collective,
        gathered_over_another_axis, not_gathered,
    ],
)  # fmt: skip
def test_micro_batch(fault: Callable[[fx.Graph], str], compiled: Compiled) -> None:
    micro_batch = compiled.micro_batch
    verify_micro_batch(micro_batch)
    message = fault(micro_batch.graph)
    caught(lambda: verify_micro_batch(micro_batch), message)


EMBED, EXPERTS = "%embed_matrices_gradient", "%layers_0_expert_matrices_gradient"


def summed(graph: fx.Graph) -> fx.Node:
    """The sum of the experts' gradients over their replicas."""
    sums = [n for n in graph.nodes if n.target is machine_ops.all_reduce_start]
    found: fx.Node = next(n for n in sums if n.args[1] == "expert_replicate")
    return found


def missing_sum(graph: fx.Graph) -> str:
    start = summed(graph)
    (wait,) = start.users
    (copy,) = wait.users
    for useless in (copy, wait, start):
        graph.erase_node(useless)
    return f"{EXPERTS} is summed over [], not over ['expert_replicate']"


def sum_over_the_axis_of_another_buffer(graph: fx.Graph) -> str:
    start = summed(graph)
    start.args = (start.args[0], "replicate")
    return f"{EXPERTS} is summed over ['replicate'], not over ['expert_replicate']"


def summed_twice(graph: fx.Graph) -> str:
    start = summed(graph)
    (wait,) = start.users
    (copy,) = wait.users
    with graph.inserting_after(copy):
        again = graph.call_function(machine_ops.all_reduce_start, start.args)
    with graph.inserting_after(again):
        graph.call_function(machine_ops.wait, (again,))
    return f"{EXPERTS} is summed over ['expert_replicate', 'expert_replicate'], not over ['expert_replicate']"


def sum_not_stored(graph: fx.Graph) -> str:
    (wait,) = summed(graph).users
    (copy,) = wait.users
    graph.erase_node(copy)
    return f"{EXPERTS} goes through zero_, call, all_reduce_start, sum_of_squares, adamw_, not zero_, call, "


def norm_before_the_sum(graph: fx.Graph) -> str:
    start = summed(graph)
    (square,) = (n for n in start.all_input_nodes[0].users if n.target is machine_ops.sum_of_squares)
    start.prepend(square)
    return f"{EXPERTS} goes through zero_, call, sum_of_squares, all_reduce_start, copy_, adamw_, not "


def counted_twice_in_the_norm(graph: fx.Graph) -> str:
    square = first(graph, machine_ops.sum_of_squares)
    with graph.inserting_after(square):
        graph.call_function(machine_ops.sum_of_squares, square.args)
    return f"{EMBED} counts 2 times in the gradient norm"


def not_counted_in_the_norm(graph: fx.Graph) -> str:
    square = first(graph, machine_ops.sum_of_squares)
    (user,) = square.users
    stacked = user.args[0]
    assert isinstance(stacked, list | tuple)
    user.args = ([part for part in stacked if part is not square],)
    graph.erase_node(square)
    return f"{EMBED} counts 0 times in the gradient norm"


def not_zeroed(graph: fx.Graph) -> str:
    graph.erase_node(first(graph, machine_ops.zero_))
    return f"{EMBED} goes through call, all_reduce_start, "


def not_updated(graph: fx.Graph) -> str:
    graph.erase_node(first(graph, machine_ops.adamw_))
    return f"{EMBED} goes through zero_, call, all_reduce_start, copy_, sum_of_squares, not zero_"


def updated_in_any_case(graph: fx.Graph) -> str:
    update = first(graph, machine_ops.adamw_)
    update.args = update.args[:-1]
    return "does not hang on the judgement of the step"


@pytest.mark.parametrize(
    "fault",
    [
        missing_sum, sum_over_the_axis_of_another_buffer, summed_twice, sum_not_stored, norm_before_the_sum,
        counted_twice_in_the_norm, not_counted_in_the_norm, not_zeroed, not_updated,
        updated_in_any_case,
    ],
)  # fmt: skip
def test_step(fault: Callable[[fx.Graph], str], compiled: Compiled) -> None:
    step = compiled.step
    verify_step(step, EIGHT_RANKS)
    message = fault(step.graph)
    caught(lambda: verify_step(step, EIGHT_RANKS), message)


# --- what two regions use, and what is not trained ---


def one_use_forgotten(graph: fx.Graph) -> str:
    additions = list(node(graph, "embed_tied_gradient").users)
    graph.erase_node(additions[0])
    return "%embed_tied_gradient is added to 1 times, used 1 times"


def second_use_not_reduced(graph: fx.Graph) -> str:
    addition = [*node(graph, "embed_tied_gradient").users][1]
    (start,) = addition.args[1].all_input_nodes  # type: ignore[union-attr]
    addition.args = (addition.args[0], start.args[0])
    return f"%{addition.name} (small.moe:17) adds what went through [], not ['reduce-scatter over shard']"


@pytest.mark.parametrize("fault", [one_use_forgotten, second_use_not_reduced])
def test_a_tied_table(fault: Callable[[fx.Graph], str]) -> None:
    micro_batch = compile_spec(small_spec("ends", shard=2)).micro_batch
    verify_micro_batch(micro_batch)
    message = fault(micro_batch.graph)
    caught(lambda: verify_micro_batch(micro_batch), message)


def test_a_tied_table_is_the_same_in_both_regions() -> None:
    compiled = compile_spec(small_spec("ends", shard=2))
    buffers = dict(compiled.plan.buffers)
    buffers["head"] = tuple(replace(b, decay=False) if b.owner else b for b in buffers["head"])
    with pytest.raises(InternalCompilerError, match="head/tied: embed has it otherwise"):
        verify_buffers(buffers, compiled.plan.mesh)


BIAS = "%layers_0_untrained_parameter"


def corrected_twice(graph: fx.Graph) -> str:
    correction = first(graph, machine_ops.correct_)
    with graph.inserting_after(correction):
        graph.call_function(machine_ops.correct_, correction.args)
    return f"%{correction.args[0]} (small.moe:13) is a parameter without a gradient, and not corrected once"


def corrected_in_two_views(graph: fx.Graph) -> str:
    correction = first(graph, machine_ops.correct_)
    view = correction.args[0]
    assert isinstance(view, fx.Node)
    with graph.inserting_after(correction):
        again = graph.call_function(machine_ops.parameter, view.args)
    with graph.inserting_after(again):
        graph.call_function(machine_ops.correct_, (again, *correction.args[1:]))
    return f"%{again.name} is corrected twice"


def changed_by_something_else(graph: fx.Graph) -> str:
    bias = first(graph, machine_ops.correct_).args[0].args[0]  # type: ignore[union-attr]
    with graph.inserting_before(graph.output_node()):
        zero = graph.call_function(machine_ops.zero_, (bias,))
    return f"%{zero.name} changes {BIAS}, which is not trained"


@pytest.mark.parametrize("fault", [corrected_twice, corrected_in_two_views, changed_by_something_else])
def test_what_is_not_trained(fault: Callable[[fx.Graph], str]) -> None:
    compiled = compile_spec(small_spec("correction", shard=2))
    verify_step(compiled.step, compiled.plan.mesh)
    message = fault(compiled.step.graph)
    caught(lambda: verify_step(compiled.step, compiled.plan.mesh), message)


# --- coverage of parameters ---


def changed_slot(buffer: Buffer, position: int, **changes: Any) -> Buffer:
    slots = list(buffer.slots)
    slots[position] = replace(slots[position], **changes)
    return replace(buffer, slots=tuple(slots))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("matrices", lambda b: changed_slot(b, 1, offset=200), "attention.k starts at 200, not at 256"),
        ("matrices", lambda b: changed_slot(b, 1, offset=260), "attention.k starts at 260, not at 256"),
        ("matrices", lambda b: replace(b, numel=b.numel - 4), "elements in 4 shards do not hold"),
        ("matrices", lambda b: replace(b, numel=b.numel + 1), "elements in 4 shards do not hold"),
        ("matrices", lambda b: replace(b, ranks=2), "elements in 2 shards do not hold"),
        ("matrices", lambda b: replace(b, shard_axis="replicate"), "in 4 shards do not hold"),
        ("matrices", lambda b: replace(b, replica_axis="data"), "4 owners and 8 replicas are not 8 ranks"),
        ("matrices", lambda b: replace(b, owner_axis="data"), "4 owners and 2 replicas are not 8 ranks"),
        ("expert_matrices", lambda b: changed_slot(b, 0, local=1), "2 ranks of 1 experts do not hold 4"),
        ("expert_matrices", lambda b: replace(b, expert_axis=None), "1 ranks of 2 experts do not hold 4"),
    ],
)
def test_buffers(name: str, change: Callable[[Buffer], Buffer], message: str, compiled: Compiled) -> None:
    buffers = dict(compiled.plan.buffers)
    verify_buffers(buffers, EIGHT_RANKS)
    buffers["layer_0"] = tuple(change(b) if b.name == name else b for b in buffers["layer_0"])
    with pytest.raises(InternalCompilerError, match=f"^layer_0/{name}: ") as error:
        verify_buffers(buffers, EIGHT_RANKS)
    assert message in str(error.value)
