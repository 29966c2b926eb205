"""A small training state at any layout, whose every element is known, and checkpoints of it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from itertools import product
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from moec.runtime.abi.buffers import Buffer, Slot, lay_out
from moec.runtime.abi.bundle import Manifest
from moec.runtime.abi.manifest import Checkpointing, Toolchain
from moec.runtime.abi.mesh import Mesh
from moec.runtime.checkpoint.describing import Described
from moec.runtime.checkpoint.saver import Checkpointer
from moec.runtime.checkpoint.slices import SAVED_PARTS
from moec.runtime.state import TrainState
from moec.runtime.training import StepResult
from moec.runtime.transport.api import Transport
from moec.runtime.transport.loopback import run_ranks

EXPERTS, WIDTH = 5, 6  # experts divide by no degree but 1
FACTS = {"model": "small", "width": "6", "train.seed": "7", "train.batch": "24 tokens", "train.steps": "100"}
SOURCE = "model small {\n}\n"
DATA = "0f" * 32

_DENSE: dict[str, tuple[int, ...]] = {"attention.q": (6, WIDTH), "attention.k": (3, WIDTH)}
_PER_EXPERT: dict[str, tuple[int, ...]] = {"experts.expert.{}.up": (4, WIDTH)}


def meshes(most: int = 4) -> list[Mesh]:
    """All legal degrees of up to so many ranks."""
    degrees = range(1, most + 1)
    return [
        Mesh(replicate, shard, expert, expert_shard)
        for replicate, shard, expert, expert_shard in product(degrees, repeat=4)
        if replicate * shard <= most and replicate * shard % (expert * expert_shard) == 0
    ]


def buffers(mesh: Mesh) -> dict[str, Buffer]:
    """The layout on a mesh: matrices, norms, experts, and biases that are not trained."""

    def dense(name: str, shapes: Mapping[str, tuple[int, ...]], decay: bool = True) -> Buffer:
        slots = [Slot(path, shape, 0, "normal") for path, shape in shapes.items()]
        return lay_out(name, slots, mesh, decay, ("shard", "replicate", "shard"), None)

    local = -(-EXPERTS // mesh.expert)
    slots = [Slot(path, shape, 0, "normal", EXPERTS, local) for path, shape in _PER_EXPERT.items()]
    axes = ("expert_shard", "expert_replicate", "expert_owner")
    bias = [Slot("experts.bias", (EXPERTS,), 0, "zeros")]
    layer = (
        dense("vectors", {"norm": (WIDTH,)}, decay=False),
        dense("matrices", _DENSE),
        lay_out("expert_matrices", slots, mesh, True, axes, "expert"),
        lay_out("untrained", bias, mesh, False, ("rank", "data", "rank"), None, trained=False),
    )
    found = {"embed/matrices": dense("matrices", {"embed": (7, WIDTH)})}
    for index in range(2):
        found |= {f"layers.{index}/{buffer.name}": buffer for buffer in layer}
    return found | {"head/matrices": dense("matrices", {"logits": (7, WIDTH)})}


def value(part: str, name: str, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Every element of a part of a parameter, flat; exact in bfloat16, and no two parts are alike."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{part}/{name}/{seed}".encode()))
    return torch.randint(-128, 128, (prod(shape),), generator=generator).float()


def state_of(mesh: Mesh, rank: int, dtype: torch.dtype = torch.float32, **options: Any) -> TrainState:
    """A state of zeros."""
    return TrainState(buffers(mesh), mesh, rank, dtype, torch.device("cpu"), **options)


def fill(state: TrainState, seed: int = 0) -> None:
    """Give a state the values of `seed`; gradients get rubbish."""
    for part in SAVED_PARTS:
        for name, shard in state.parts[part].items():
            for piece in state.pieces(name):
                whole = value(part, piece.name, piece.shape, seed)
                shard[piece.offset : piece.offset + piece.count] = whole[piece.start :][: piece.count]
    for gradient in state.gradients.values():
        gradient.fill_(torch.nan)


def assert_is(state: TrainState, seed: int) -> None:
    """A state has the values of `seed`, zeros as gradients and as padding: it is `fill`ed and cleaned."""
    expected = state_of(state.mesh, state.rank, state.dtype, moments=state.dtypes["exp_avg"])
    fill(expected, seed)
    for gradient in expected.gradients.values():
        gradient.zero_()
    for part, shards in expected.parts.items():
        for name, shard in shards.items():
            assert torch.equal(state.parts[part][name], shard), (part, name, state.rank)


def bundle_manifest(
    mesh: Mesh, every: int | None = 5, keep: int = 3, facts: Mapping[str, str] = FACTS, **training: Any
) -> Manifest:
    """A bundle's manifest, as far as checkpoints read it."""
    saving = Checkpointing(every, keep) if every else None
    settings = {"seed": 7, "batch_sequences": 4, "steps": 100, "checkpoint": saving} | training
    found = SimpleNamespace(
        mesh=mesh,
        world=mesh.world,
        model="small",
        facts=dict(facts),
        toolchain=Toolchain("0.1", "2.0"),
        training=SimpleNamespace(**settings),
        states=lambda: buffers(mesh),
    )
    return cast(Manifest, found)


def described(mesh: Mesh, **options: Any) -> Described:
    """A run of 100 steps."""
    return Described(bundle_manifest(mesh, **options), SOURCE, "ab" * 32, 100, DATA)


def result_of(step: int) -> StepResult:
    """A step that was done."""
    return StepResult(step, {"loss": 1.0}, 1.0, 1e-3, 24, 0.1, {})


def saver_of(state: TrainState, transport: Transport, root: Path, **options: Any) -> Checkpointer:
    """What saves a state of a mesh."""
    return Checkpointer(described(state.mesh, **options), state, transport, root)


def save(root: Path, mesh: Mesh, *steps: int, **options: Any) -> None:
    """Save states on all ranks of a mesh; the values at a step have its number for their seed."""

    def rank(transport: Transport) -> None:
        state = state_of(mesh, transport.rank)
        saver = saver_of(state, transport, root, **options)
        for step in steps:
            fill(state, step)
            saver.save(step)
        saver.drain()
        saver.close()

    run_ranks(mesh.world, cast(Callable[[Any], None], rank))
