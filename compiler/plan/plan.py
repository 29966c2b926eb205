"""`Plan`: mesh, placement of every parameter, what is kept for backward, micro-batches.

Frozen data, made from the reference.

The gradient contract is derived here and nowhere else. A parameter is whole on some ranks and cut over
others; its gradient is a sum over all ranks that see different tokens (the `data` axis), so

    reduce-scatter over the axis that cuts it, then all-reduce over the axis that repeats it.

Tokens reach the ranks of the `expert` axis by all-to-all, so an expert's gradient already holds theirs.
Losses are divided by global token counts before differentiation: gradients are summed, never averaged, and no
divisor depends on a degree.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from moec.compiler.build.model import ReferenceModel, Shape
from moec.compiler.numerics import Numerics, numerics_of
from moec.dsl.parameters import Parameter
from moec.dsl.spec import Dispatch, MemorySpec, Spec
from moec.runtime.abi.buffers import Buffer, Slot, lay_out
from moec.runtime.abi.dtypes import NAMES, DtypeName
from moec.runtime.abi.mesh import Mesh

DENSE_AXES = ("shard", "replicate", "shard")
EXPERT_AXES = ("expert_shard", "expert_replicate", "expert_owner")
EVERYWHERE = ("rank", "data", "rank")
"""Axes that cut a buffer, repeat it and own it."""


@dataclass(frozen=True)
class Plan:
    """Everything that partitioning and scheduling apply."""

    mesh: Mesh
    buffers: dict[str, tuple[Buffer, ...]]  # region kind -> its buffers
    memory: MemorySpec
    micro_batches: int
    numerics: Numerics
    dispatch: Dispatch = field(default_factory=Dispatch)


def make_plan(reference: ReferenceModel, mesh: Mesh, spec: Spec, numerics: Numerics | None = None) -> Plan:
    """Place every parameter: dense ones over `shard`, experts over `expert` and then `expert_shard`.

    `numerics` are those of the spec, unless others are given.
    """
    buffers = {
        kind: place_parameters(region.parameters, mesh, reference.shape)
        for kind, region in reference.kinds.items()
    }
    numerics = numerics or numerics_of(spec.precision)
    return Plan(mesh, buffers, spec.memory, spec.train.micro_batches, numerics, spec.parallel.dispatch)


def place_parameters(parameters: tuple[Parameter, ...], mesh: Mesh, shape: Shape) -> tuple[Buffer, ...]:
    """Buffers of one region: parameters that are treated alike share one.

    Matrices and vectors are apart because weight decay tells them apart. A tied matrix is alone, so that the
    other region that uses it gathers nothing else. What is not trained is small, and whole on every rank. A
    buffer is gathered in one dtype, so routers' matrices are apart where theirs is another.
    """
    groups: dict[_Group, list[Slot]] = {}
    for parameter in parameters:
        group = _Group(
            experts=parameter.experts is not None,
            decay=parameter.decays,
            trained=parameter.trained,
            tied=parameter.tied,
            routes=parameter.routes and shape.of(parameter) != shape.dtype,
            dtype=NAMES[shape.of(parameter)],
        )
        groups.setdefault(group, []).append(_slot(parameter, mesh))
    return tuple(_buffer(group, slots, mesh) for group, slots in groups.items())


@dataclass(frozen=True)
class _Group:
    """What tells buffers of a region apart."""

    experts: bool
    decay: bool
    trained: bool
    tied: bool
    routes: bool
    dtype: DtypeName

    @property
    def name(self) -> str:
        """What its buffer is called."""
        if not self.trained:
            return "untrained"
        if self.tied or self.routes:
            return "tied" if self.tied else "router_matrices"
        return ("expert_" * self.experts) + ("matrices" if self.decay else "vectors")


def _slot(parameter: Parameter, mesh: Mesh) -> Slot:
    local = 1 if parameter.experts is None else -(-parameter.experts // mesh.expert)
    return Slot(parameter.path, parameter.shape, 0, parameter.init, parameter.experts, local)


def _buffer(group: _Group, slots: list[Slot], mesh: Mesh) -> Buffer:
    if not group.trained:
        return lay_out(group.name, slots, mesh, False, EVERYWHERE, None, trained=False, dtype=group.dtype)
    axes = EXPERT_AXES if group.experts else DENSE_AXES
    expert_axis = "expert" if group.experts else None
    owner = "embed" if group.tied else None
    return lay_out(group.name, slots, mesh, group.decay, axes, expert_axis, owner=owner, dtype=group.dtype)
