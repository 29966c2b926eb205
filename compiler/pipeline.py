"""The order of everything: from a checked spec to the programs of a rank, top to bottom.

    build           ModelSpec                     -> ReferenceModel           the meaning
    plan            ReferenceModel + mesh         -> Plan                     decisions
    partition       ReferenceRegion + Plan        -> PartitionedRegion        one rank's part, collectives
    differentiate   PartitionedRegion             -> DifferentiatedRegion     forward and backward
    schedule        DifferentiatedRegions + Plan  -> MicroBatch, Step         the whole step
    emit            graphs                        -> Program                  what an executor runs

Each kind of region passes once, whatever the number of layers or ranks. The verifier of a level runs after
every pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from moec.dsl.spec import Dispatch, DType, Spec
from moec.runtime.abi.bundle import EVALUATE_RESULTS, STEP_RESULTS
from moec.runtime.abi.mesh import Mesh
from moec.runtime.abi.program import Program

from .build.model import ReferenceModel, Shape, build
from .differentiate.bind import DifferentiatedRegion, bind
from .differentiate.policy import Policy
from .differentiate.simplify import simplify
from .differentiate.split import split
from .differentiate.trace import Joint, trace_joint
from .emit.program import to_program
from .graph import PartitionedRegion, ReferenceRegion
from .memory.choose import choose
from .memory.kept import Footprint, bytes_of_results, footprint
from .memory.sizes import sizes_by_kind
from .numerics import Numerics, numerics_of
from .passes.insert_redistribution import insert_redistribution
from .passes.lower_redistribution import lower_redistribution
from .passes.place import place
from .passes.propagate import propagate
from .passes.route_tokens import route_tokens
from .passes.split_collectives import split_collectives
from .plan.degrees import resolve_degrees
from .plan.plan import Plan, make_plan
from .schedule.micro_batch import MicroBatch, build_micro_batch
from .schedule.offload import offload
from .schedule.step import Step, build_evaluation, build_step
from .verify.differentiated import verify_differentiated
from .verify.regions import verify_marked, verify_partitioned, verify_placed, verify_reference
from .verify.schedule import verify_buffers, verify_evaluation, verify_micro_batch, verify_step
from .verify.traced import collectives, verify_joint, verify_simplified, verify_split


@dataclass(frozen=True)
class CompileOptions:
    """What is not in the spec. `ranks` is needed where a degree is `rest`."""

    ranks: int | None = None
    dtype: DType | None = None  # instead of the spec's precision: `moec verify` computes in fp64
    update: bool = True  # False: a step that stops at finished gradients


@dataclass(frozen=True)
class Compiled:
    """Everything a compilation made, level by level."""

    spec: Spec
    options: CompileOptions
    reference: ReferenceModel
    plan: Plan
    partitioned: dict[str, PartitionedRegion]
    joints: dict[str, Joint]
    policies: dict[str, Policy]
    differentiated: dict[str, DifferentiatedRegion]
    footprints: dict[str, Footprint]
    micro_batch: MicroBatch
    step: Step
    programs: dict[str, Program]


def compile_spec(spec: Spec, options: CompileOptions | None = None) -> Compiled:
    """Compile. Raises CompileError for what the user can mend, InternalCompilerError for what we have to."""
    options = options or CompileOptions()
    mesh = resolve_degrees(spec.parallel, options.ranks)
    numerics = numerics_of(spec.precision, options.dtype)
    reference = build(spec.model, rank_shape(spec, mesh, numerics))
    for region in reference.kinds.values():
        verify_reference(region)
    plan = make_plan(reference, mesh, spec, numerics)
    verify_buffers(plan.buffers, mesh)
    partitioned = {kind: partition(region, mesh, plan.dispatch) for kind, region in reference.kinds.items()}
    joints = {kind: trace(region) for kind, region in partitioned.items()}
    sizes = sizes_by_kind(reference, spec.model, mesh)
    policies = choose(plan.memory.recompute, joints, spec.model, reference.chain, sizes)
    differentiated = {kind: halve(joint, policies[kind], plan) for kind, joint in joints.items()}
    micro_batch = build_micro_batch(
        reference.chain,
        differentiated,
        reference.loads,
        reference.means,
        plan.numerics,
        spec.train.seed,
        counted=reference.counted,
        documents=reference.shape.documents,
        gathered=plan.memory.gathered,
    )
    footprints = {kind: footprint(region, sizes[kind]) for kind, region in differentiated.items()}
    if plan.memory.offload is not None:
        offload(micro_batch.graph, plan.memory.offload, bytes_of_results(footprints))
    verify_micro_batch(micro_batch)
    step = build_step(
        micro_batch, plan.micro_batches, mesh, spec.train, reference.corrected(), options.update
    )
    verify_step(step, mesh)
    programs = emit(differentiated, micro_batch, step)
    programs |= evaluation_programs(spec, reference, differentiated, policies, plan)
    levels = (partitioned, joints, policies, differentiated, footprints, micro_batch, step, programs)
    return Compiled(spec, options, reference, plan, *levels)


def evaluation_programs(
    spec: Spec,
    reference: ReferenceModel,
    differentiated: dict[str, DifferentiatedRegion],
    policies: dict[str, Policy],
    plan: Plan,
) -> dict[str, Program]:
    """`evaluate` and what it calls beside the forward programs of training: losses and loads, no update.

    Kinds of region in which something is random in training have a forward program of their own.
    """
    random = [kind for kind, region in reference.kinds.items() if "noise" in region.inputs]
    kinds = build(spec.model, reference.shape, training=False).kinds if random else {}
    for kind in random:
        verify_reference(kinds[kind])
    own = {
        kind: halve(trace(partition(kinds[kind], plan.mesh, plan.dispatch)), policies[kind], plan)
        for kind in random
    }
    own = {kind: replace(region, kind=f"{kind}.evaluate") for kind, region in own.items()}
    micro_batch = build_micro_batch(
        reference.chain,
        differentiated | own,
        reference.loads,
        reference.means,
        plan.numerics,
        spec.train.seed,
        counted=reference.counted,
        documents=reference.shape.documents,
        backward=False,
    )
    verify_micro_batch(micro_batch)
    evaluation = build_evaluation(micro_batch, plan.micro_batches, plan.mesh, spec.train)
    verify_evaluation(evaluation)
    found = [emit_forward(region) for region in own.values()]
    found += [
        to_program("evaluate_micro_batch", micro_batch.graph, micro_batch.input_labels, micro_batch.results),
        to_program("evaluate", evaluation.graph, evaluation.input_labels, EVALUATE_RESULTS),
    ]
    return {program.name: program for program in found}


def rank_shape(spec: Spec, mesh: Mesh, numerics: Numerics) -> Shape:
    """The static shape of one rank's micro-batch: the global one over all ranks, rounded up."""
    train = spec.train
    micro = -(-train.batch_sequences // train.micro_batches)
    return Shape(
        sequences=-(-micro // mesh.world),
        sequence=train.sequence,
        dtype=numerics.compute,
        router=numerics.router,
        documents=train.documents == "separate",
        loss_chunk=spec.memory.loss_chunk,
    )


def partition(region: ReferenceRegion, mesh: Mesh, dispatch: Dispatch | None = None) -> PartitionedRegion:
    """One rank's part of a region; its tokens go to experts by `dispatch`, all-to-all where it is None."""
    placed = place(region, mesh)
    propagate(placed)
    verify_placed(placed, mesh)
    placed = route_tokens(placed, mesh, dispatch or Dispatch())
    propagate(placed)
    verify_placed(placed, mesh)
    insert_redistribution(placed, mesh)
    verify_marked(placed, mesh)
    lower_redistribution(placed, mesh)
    propagate(placed)
    verify_partitioned(placed, mesh)
    return placed


def trace(region: PartitionedRegion) -> Joint:
    """Forward and backward of a region in one graph of the instruction set."""
    joint = trace_joint(region)
    verify_joint(joint)
    traced = collectives(joint.graph)
    simplify(joint.graph)
    verify_simplified(joint, traced)
    return joint


def halve(joint: Joint, policy: Policy, plan: Plan) -> DifferentiatedRegion:
    """Forward and backward of a region, as an executor runs them."""
    cut = split(joint, policy)
    verify_split(cut)
    bound = bind(cut, plan.buffers[joint.region.kind])
    for graph in (bound.forward, bound.backward):
        split_collectives(graph)
    verify_differentiated(bound)
    return bound


def emit_forward(region: DifferentiatedRegion) -> Program:
    """The forward program of a kind of region."""
    inputs = (*(buffer.name for buffer in region.buffers), *region.inputs)
    return to_program(f"{region.kind}.forward", region.forward, inputs, (*region.outputs, *region.saved))


def emit(
    differentiated: dict[str, DifferentiatedRegion], micro_batch: MicroBatch, step: Step
) -> dict[str, Program]:
    """All programs by name; `step` is where an executor starts."""
    programs = {}
    for kind, region in differentiated.items():
        forward, backward = emit_forward(region), f"{kind}.backward"
        programs[forward.name] = forward
        programs[backward] = to_program(
            backward,
            region.backward,
            (
                *region.backward_buffers,
                *region.backward_inputs,
                *region.saved,
                *(f"grad {name}" for name in region.output_grads),
            ),
            tuple(f"grad {name}" for name in (*(b.name for b in region.trained), *region.input_grads)),
        )
    programs["micro_batch"] = to_program(
        "micro_batch", micro_batch.graph, micro_batch.input_labels, micro_batch.results
    )
    programs["step"] = to_program("step", step.graph, step.input_labels, STEP_RESULTS)
    return programs
