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

from dataclasses import dataclass

import torch

from moec.dsl.spec import DType, Spec
from moec.runtime.abi.bundle import STEP_RESULTS
from moec.runtime.abi.mesh import Mesh
from moec.runtime.abi.program import Program

from .build.model import ReferenceModel, Shape, build
from .differentiate.bind import DifferentiatedRegion, bind
from .differentiate.policy import POLICIES
from .differentiate.simplify import simplify
from .differentiate.split import split
from .differentiate.trace import trace_joint
from .emit.program import to_program
from .graph import PartitionedRegion, ReferenceRegion
from .passes.insert_redistribution import insert_redistribution
from .passes.lower_redistribution import lower_redistribution
from .passes.place import place
from .passes.propagate import propagate
from .passes.split_collectives import split_collectives
from .plan.degrees import resolve_degrees
from .plan.plan import Plan, make_plan
from .schedule.micro_batch import MicroBatch, build_micro_batch
from .schedule.step import Step, build_step
from .verify.differentiated import verify_differentiated
from .verify.regions import verify_marked, verify_partitioned, verify_placed, verify_reference
from .verify.schedule import verify_buffers, verify_micro_batch, verify_step
from .verify.traced import collectives, verify_joint, verify_simplified, verify_split

DTYPES: dict[DType, torch.dtype] = {"fp32": torch.float32, "fp64": torch.float64}


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
    differentiated: dict[str, DifferentiatedRegion]
    micro_batch: MicroBatch
    step: Step
    programs: dict[str, Program]


def compile_spec(spec: Spec, options: CompileOptions | None = None) -> Compiled:
    """Compile. Raises CompileError for what the user can mend, InternalCompilerError for what we have to."""
    options = options or CompileOptions()
    mesh = resolve_degrees(spec.parallel, options.ranks)
    reference = build(spec.model, rank_shape(spec, mesh, options))
    for region in reference.kinds.values():
        verify_reference(region)
    plan = make_plan(reference, mesh, spec)
    verify_buffers(plan.buffers, mesh)
    partitioned = {kind: partition(region, mesh) for kind, region in reference.kinds.items()}
    differentiated = {kind: differentiate(region, plan) for kind, region in partitioned.items()}
    micro_batch = build_micro_batch(
        reference.chain, differentiated, reference.loads, reference.shape.dtype, spec.train.seed
    )
    verify_micro_batch(micro_batch)
    step = build_step(
        micro_batch, plan.micro_batches, mesh, spec.train, reference.corrected(), options.update
    )
    verify_step(step, mesh)
    programs = emit(differentiated, micro_batch, step)
    return Compiled(spec, options, reference, plan, partitioned, differentiated, micro_batch, step, programs)


def rank_shape(spec: Spec, mesh: Mesh, options: CompileOptions) -> Shape:
    """The static shape of one rank's micro-batch: the global one over all ranks, rounded up."""
    train = spec.train
    micro = -(-train.batch_sequences // train.micro_batches)
    dtype = DTYPES[options.dtype or spec.precision.compute]
    return Shape(sequences=-(-micro // mesh.world), sequence=train.sequence, dtype=dtype)


def partition(region: ReferenceRegion, mesh: Mesh) -> PartitionedRegion:
    """One rank's part of a region."""
    placed = place(region, mesh)
    propagate(placed)
    verify_placed(placed, mesh)
    insert_redistribution(placed, mesh)
    verify_marked(placed, mesh)
    lower_redistribution(placed, mesh)
    propagate(placed)
    verify_partitioned(placed, mesh)
    return placed


def differentiate(region: PartitionedRegion, plan: Plan) -> DifferentiatedRegion:
    """Forward and backward of a region, as an executor runs them."""
    joint = trace_joint(region)
    verify_joint(joint)
    traced = collectives(joint.graph)
    simplify(joint.graph)
    verify_simplified(joint, traced)
    cut = split(joint, POLICIES[plan.recompute])
    verify_split(cut)
    bound = bind(cut, plan.buffers[region.kind])
    for graph in (bound.forward, bound.backward):
        split_collectives(graph)
    verify_differentiated(bound)
    return bound


def emit(
    differentiated: dict[str, DifferentiatedRegion], micro_batch: MicroBatch, step: Step
) -> dict[str, Program]:
    """All programs by name; `step` is where an executor starts."""
    programs = {}
    for kind, region in differentiated.items():
        buffers = tuple(buffer.name for buffer in region.buffers)
        forward, backward = f"{kind}.forward", f"{kind}.backward"
        programs[forward] = to_program(
            forward, region.forward, (*buffers, *region.inputs), (*region.outputs, *region.saved)
        )
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
        "micro_batch", micro_batch.graph, micro_batch.input_labels, ("losses", "loads")
    )
    programs["step"] = to_program("step", step.graph, step.input_labels, STEP_RESULTS)
    return programs
