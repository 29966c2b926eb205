"""The stages of a compilation one by one, for tests of each."""

from __future__ import annotations

from dataclasses import replace

import torch

from moec.compiler.build.model import ReferenceModel, Shape, build
from moec.compiler.differentiate.bind import DifferentiatedRegion
from moec.compiler.graph import PartitionedRegion
from moec.compiler.memory.choose import choose
from moec.compiler.memory.sizes import sizes_by_kind
from moec.compiler.passes.insert_redistribution import insert_redistribution
from moec.compiler.passes.place import place
from moec.compiler.passes.propagate import propagate
from moec.compiler.pipeline import halve, partition, trace
from moec.compiler.plan.plan import Plan, make_plan
from moec.dsl.spec import Spec
from moec.runtime.abi.mesh import Mesh
from moec.runtime.abi.program import Program

ONE_RANK = Mesh(replicate=1, shard=1, expert=1, expert_shard=1)
EIGHT_RANKS = Mesh(replicate=2, shard=4, expert=2, expert_shard=2)


def reference(spec: Spec, sequences: int = 3, dtype: torch.dtype = torch.float64) -> ReferenceModel:
    """The reference graphs, for `sequences` sequences a rank."""
    return build(spec.model, Shape(sequences, spec.train.sequence, dtype))


def placed(spec: Spec, mesh: Mesh, kind: str = "layer_0") -> PartitionedRegion:
    """A region after `place`."""
    region = place(reference(spec).kinds[kind], mesh)
    propagate(region)
    return region


def marked(spec: Spec, mesh: Mesh, kind: str = "layer_0") -> PartitionedRegion:
    """A region after `insert_redistribution`."""
    region = placed(spec, mesh, kind)
    insert_redistribution(region, mesh)
    return region


def partitioned(spec: Spec, mesh: Mesh, kind: str = "layer_0") -> PartitionedRegion:
    """A region with its collectives."""
    return partition(reference(spec).kinds[kind], mesh)


def differentiated(spec: Spec, mesh: Mesh, kind: str = "layer_0") -> DifferentiatedRegion:
    """Forward and backward of a region."""
    return differentiate(reference(spec), kind, make_plan(reference(spec), mesh, spec), spec)


def differentiate(model: ReferenceModel, kind: str, plan: Plan, spec: Spec) -> DifferentiatedRegion:
    """Forward and backward of a region of `model`."""
    joint = trace(partition(model.kinds[kind], plan.mesh))
    sizes = sizes_by_kind(model, spec.model, plan.mesh)
    policies = choose(plan.memory.recompute, {kind: joint}, spec.model, model.chain, sizes)
    return halve(joint, policies[kind], plan)


def without_lines(programs: dict[str, Program]) -> dict[str, Program]:
    """Programs that differ in nothing but the text are equal."""
    return {
        name: replace(p, instructions=tuple(replace(i, place=None) for i in p.instructions))
        for name, p in programs.items()
    }
