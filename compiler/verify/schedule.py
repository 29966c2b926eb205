"""Rules of the step: the gradient contract and the coverage of parameters, read off the graphs.

coverage       slots do not overlap and lie inside their buffer; its shards are equal; experts have a rank;
               regions that use one buffer have the same
micro-batch    a buffer's gradient is added to its shard once for each region that uses the buffer, reduced
               over the axis that cuts it in the dtype of reductions, added in that of gradients
step           a parameter is cast to the dtype that it is computed in once, if that is another
               a gradient is summed exactly once over the axis that repeats it, and counted once in the norm;
               what is not trained is changed by one correction at most, and by nothing else; every change of
               parameters hangs on the one judgement of losses and norm
one role       all ranks run this one program, so the order of collectives on an axis is the same for all
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import fx

from moec.compiler.errors import InternalCompilerError
from moec.compiler.numerics import Numerics
from moec.compiler.schedule.micro_batch import MicroBatch
from moec.compiler.schedule.step import Evaluation, Step
from moec.runtime.abi import machine_ops
from moec.runtime.abi.buffers import Buffer, state_name, trained_only
from moec.runtime.abi.dtypes import DTYPES
from moec.runtime.abi.mesh import Mesh

from .differentiated import instructions
from .offload import offloads
from .report import Problems, check

_CAST = torch.ops.aten._to_copy.default


def verify_buffers(buffers: dict[str, tuple[Buffer, ...]], mesh: Mesh) -> None:
    """Coverage: every element of every parameter has exactly one owner on the owner axis."""
    owned: dict[str, Buffer] = {}
    for kind, found in buffers.items():
        for buffer in found:
            for problem in _coverage(buffer, mesh):
                raise InternalCompilerError(f"{kind}/{buffer.name}: {problem}")
            if buffer.owner is not None and owned.setdefault(state_name(kind, buffer), buffer) != buffer:
                raise InternalCompilerError(f"{kind}/{buffer.name}: {buffer.owner} has it otherwise")


def _coverage(buffer: Buffer, mesh: Mesh) -> Iterator[str]:
    end = 0
    for slot in buffer.slots:
        if slot.offset != end:
            yield f"{slot.path} starts at {slot.offset}, not at {end}"
        end = slot.offset + slot.numel
        places = mesh.size(buffer.expert_axis) if buffer.expert_axis else 1
        if slot.experts is not None and slot.local * places < slot.experts:
            yield f"{slot.path}: {places} ranks of {slot.local} experts do not hold {slot.experts}"
    if end > buffer.numel or buffer.numel % buffer.ranks or buffer.ranks != mesh.size(buffer.shard_axis):
        yield f"{buffer.numel} elements in {buffer.ranks} shards do not hold {end}"
    owners = buffer.ranks * (mesh.size(buffer.expert_axis) if buffer.expert_axis else 1)
    if owners * mesh.size(buffer.replica_axis) != mesh.world or owners != mesh.size(buffer.owner_axis):
        yield f"{owners} owners and {mesh.size(buffer.replica_axis)} replicas are not {mesh.world} ranks"


def verify_micro_batch(micro_batch: MicroBatch) -> None:
    """Raises InternalCompilerError with everything that is wrong."""
    graph = micro_batch.graph
    graph.lint()
    states = len(micro_batch.buffers)
    shards = _placeholders(graph)[len(micro_batch.inputs) :]
    problems = list(instructions(graph))
    for parameter, buffer in zip(shards[:states], micro_batch.buffers.values(), strict=True):
        problems += _gathers(parameter, buffer)
    trained = trained_only(micro_batch.buffers) if micro_batch.backward else {}
    for gradient, (name, buffer) in zip(shards[states:], trained.items(), strict=True):
        way = _gradients_way(buffer, micro_batch.numerics)
        problems += _additions(gradient, way, micro_batch.uses[name])
    check("micro_batch", graph, [*problems, *offloads(graph)])


def _gradients_way(buffer: Buffer, numerics: Numerics) -> list[str]:
    """What happens to the gradient of a buffer between its region and its shard."""
    way, dtype = [], DTYPES[buffer.dtype]
    if buffer.ranks > 1:
        way += [] if dtype == numerics.reduce else [f"{numerics.reduce}"]
        way += [f"reduce-scatter over {buffer.shard_axis}"]
        dtype = numerics.reduce
    return way + ([] if dtype == numerics.parameters else [f"{numerics.parameters}"])


def _additions(gradient: fx.Node, wanted: list[str], regions: int) -> Problems:
    """What is added to a gradient's shard: what each of `regions` gives, by the way that is `wanted`."""
    additions = [user for user in gradient.users if user.target is machine_ops.accumulate_]
    if len(additions) != regions or len(gradient.users) != regions:
        yield gradient, f"is added to {len(additions)} times, used {len(gradient.users)} times"
        return
    for addition in additions:
        if (way := _way(addition)) != wanted:
            yield addition, f"adds what went through {way}, not {wanted}"


def verify_step(step: Step, mesh: Mesh) -> None:
    """Raises InternalCompilerError with everything that is wrong."""
    graph = step.graph
    graph.lint()
    inputs, trained = _placeholders(graph), trained_only(step.buffers)
    parameters, first = len(step.inputs), len(step.inputs) + len(step.buffers)
    problems = list(instructions(graph))
    for parameter, buffer in zip(inputs[parameters:first], step.buffers.values(), strict=True):
        problems += _copies(parameter, buffer, step.numerics)
        if not buffer.trained:
            problems += _corrections(parameter)
    for gradient, buffer in zip(inputs[first : first + len(trained)], trained.values(), strict=True):
        sums = [user for user in _summed(gradient) if user.target is machine_ops.all_reduce_start]
        wanted = [buffer.replica_axis] if mesh.size(buffer.replica_axis) > 1 else []
        if [user.args[1] for user in sums] != wanted:
            problems.append(
                (gradient, f"is summed over {[user.args[1] for user in sums]}, not over {wanted}")
            )
        squares = [user for user in gradient.users if user.target is machine_ops.sum_of_squares]
        if len(squares) != 1:
            problems.append((gradient, f"counts {len(squares)} times in the gradient norm"))
        alike = step.numerics.reduce == step.numerics.parameters
        summed = ["all_reduce_start" if alike else "_to_copy", "copy_"] if wanted else []
        problems += _uses(gradient, _wanted_uses(graph, summed))
    check("step", graph, [*problems, *_guarded(graph)])


def verify_evaluation(evaluation: Evaluation) -> None:
    """Nothing that it is given changes. Raises InternalCompilerError with everything that is wrong."""
    graph = evaluation.graph
    graph.lint()
    problems = list(instructions(graph))
    for parameter in _placeholders(graph)[len(evaluation.inputs) :]:
        problems += [
            (user, f"changes %{parameter.name}")
            for user in parameter.users
            if str(getattr(user.target, "__name__", "")).endswith("_")
        ]
    check("evaluate", graph, problems)


def _guarded(graph: fx.Graph) -> Problems:
    """One judgement, of what all ranks have alike, and no update without it."""
    judgements = [node for node in graph.nodes if node.target is machine_ops.sound]
    for update in graph.nodes:
        if update.target in (machine_ops.adamw_, machine_ops.correct_) and update.args[-1:] != (*judgements,):
            yield update, "does not hang on the judgement of the step"


def _corrections(parameter: fx.Node) -> Problems:
    """An untrained buffer goes into micro-batches; its parameters are corrected once each, or stay."""
    seen = set()
    for user in parameter.users:
        if user.target is machine_ops.parameter:
            changes = [change.target for change in user.users]
            if changes != [machine_ops.correct_]:
                yield user, "is a parameter without a gradient, and not corrected once"
            if user.args[1] in seen:
                yield user, "is corrected twice"
            seen.add(user.args[1])
        elif user.target is not machine_ops.call:
            yield user, f"changes %{parameter.name}, which is not trained"


def _placeholders(graph: fx.Graph) -> list[fx.Node]:
    return [node for node in graph.nodes if node.op == "placeholder"]


def _gathers(parameter: fx.Node, buffer: Buffer) -> Problems:
    """A sharded parameter is only ever gathered, over the axis that cuts it; a whole one goes into calls."""
    for user in parameter.users:
        if buffer.ranks == 1 and user.target is not machine_ops.call:
            yield user, f"takes %{parameter.name}, which is whole"
        gather = (machine_ops.shard_gather_start, (parameter, buffer.ranks, buffer.shard_axis))
        if buffer.ranks > 1 and (user.target, user.args) != gather:
            yield user, f"does not gather %{parameter.name} over {buffer.shard_axis}"


def _copies(parameter: fx.Node, buffer: Buffer, numerics: Numerics) -> Problems:
    """Micro-batches take a parameter in the dtype that it is computed in, which it is cast to once a step."""
    casts = [user for user in parameter.users if user.target is _CAST]
    wanted = [] if DTYPES[buffer.dtype] == numerics.parameters else [DTYPES[buffer.dtype]]
    if (found := [cast.kwargs.get("dtype") for cast in casts]) != wanted:
        yield parameter, f"is cast to {found}, not to {wanted}"
    if wanted and any(user.target is machine_ops.call for user in parameter.users):
        yield parameter, f"is computed with as it is, not in {wanted[0]}"


def _summed(gradient: fx.Node) -> list[fx.Node]:
    """What uses a gradient, as it is or in another dtype."""
    return [user for use in gradient.users for user in (use.users if use.target is _CAST else [use])]


def _wanted_uses(graph: fx.Graph, summed: list[str]) -> list[str]:
    """What happens to a gradient shard in a step, in order."""
    called = [node.target for node in graph.nodes if node.op == "call_function"]
    return [
        "zero_",
        *(["call"] * called.count(machine_ops.call)),
        *summed,
        "sum_of_squares",
        *(["adamw_"] if machine_ops.adamw_ in called else []),
    ]


def _uses(gradient: fx.Node, wanted: list[str]) -> Problems:
    users = [node for node in gradient.graph.nodes if gradient in node.all_input_nodes]
    found = ["_to_copy" if node.target is _CAST else node.target.__name__ for node in users]
    if found != wanted:
        yield gradient, f"goes through {', '.join(found)}, not {', '.join(wanted)}"


def _way(addition: fx.Node) -> list[str]:
    """The dtypes and collectives that what is added has gone through."""
    way: list[str] = []
    source = addition.args[1]
    while isinstance(source, fx.Node) and source.target is not machine_ops.getitem:
        if source.target is _CAST:
            way.append(str(source.kwargs["dtype"]))
        elif source.target is machine_ops.reduce_scatter_start:
            way.append(f"reduce-scatter over {source.args[2]}")
        elif source.target is not machine_ops.wait:
            way.append(str(getattr(source.target, "__name__", source.target)))
        source = source.args[0] if source.args else None
    return way[::-1]
