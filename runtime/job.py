"""A bundle on a transport: what `run` and `verify` share.

Everything that can be refused is refused here, before work.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from .abi.bundle import Bundle, read_bundle
from .abi.instructions import COLLECTIVE_STARTS, MEMBER
from .abi.mesh import Mesh
from .abi.program import Program
from .errors import EnvironmentMismatch
from .executor import Executor
from .launch import discover
from .profile.meter import Meter
from .rehearsal import check_memory
from .transport.api import Group, Transport


@dataclass(frozen=True)
class Job:
    """A loaded bundle, this rank's transport and its groups, and the executor on both.

    `meter` counts what the executor's collectives do; what `groups` do besides is not counted.
    """

    bundle: Bundle
    transport: Transport
    groups: dict[str, Group]
    executor: Executor
    meter: Meter


def open_job(path: Path, transport: Transport) -> Job:
    """Load a bundle on every rank of `transport`.

    Raises FormatError or NotABundleError for the bundle, EnvironmentMismatch if torch, the world, the memory
    of this machine or another rank's bundle do not match it.
    """
    bundle = read_bundle(path)
    check_toolchain(bundle)
    check_world_size(bundle, transport.world)
    check_memory(bundle, transport.device)
    agree({"bundle": bundle.digest, "torch": torch.__version__}, transport)
    groups = make_groups(bundle.manifest.mesh, used_axes(bundle), transport)
    meter = Meter()
    executor = Executor(bundle.programs, meter.groups(groups), transport.device)
    return Job(bundle, transport, groups, executor, meter)


def default_transport() -> str:
    """MPI where a launcher started this process; a single process needs none."""
    return "self" if discover().kind == "single" else "mpi"


def check_toolchain(bundle: Bundle) -> None:
    """Programs name operations of one torch release: another one is refused."""
    here, made = torch.__version__.split("+")[0], bundle.manifest.toolchain.torch
    if here != made:
        raise EnvironmentMismatch(
            f"the bundle was compiled with torch {made}, this is torch {here}: compile again"
        )


def check_world_size(bundle: Bundle, world: int) -> None:
    """A bundle is for one number of ranks."""
    wanted = bundle.manifest.world
    if wanted != world:
        mesh = bundle.manifest.mesh
        raise EnvironmentMismatch(
            f"the bundle is for {wanted} ranks (replicate {mesh.replicate} x shard {mesh.shard}), "
            f"this job has {world}: start it with mpirun -n {wanted}, or compile for {world} rank(s)"
        )


def agree(facts: dict[str, str], transport: Transport) -> None:
    """All ranks say the same. Raises EnvironmentMismatch naming the first fact and ranks that differ."""
    answers = [json.loads(answer) for answer in transport.exchange(json.dumps(facts).encode())]
    for rank, answer in enumerate(answers):
        for name, fact in answers[0].items():
            if answer.get(name) != fact:
                theirs = answer.get(name)
                raise EnvironmentMismatch(
                    f"not all ranks have the same {name}: rank 0 has {fact}, rank {rank} has {theirs}"
                )


def used_axes(bundle: Bundle) -> set[str]:
    """The axes that the programs' collectives name, and those that own buffers, for collecting them."""
    owners = {"data", *(buffer.owner_axis for buffer in bundle.manifest.states().values())}
    return owners.union(*(collective_axes(program) for program in bundle.programs.values()))


def collective_axes(program: Program) -> set[str]:
    """The axes of one program's collectives, and those on which it asks for the rank's place."""
    return {i.arguments[-1] for i in program.instructions if i.op in COLLECTIVE_STARTS or i.op == MEMBER}


def make_groups(mesh: Mesh, axes: set[str], transport: Transport) -> dict[str, Group]:
    """This rank's communicators, in one order everywhere."""
    return transport.groups({axis: groups for axis, groups in mesh.axes().items() if axis in axes})
