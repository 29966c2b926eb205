"""Saving and loading weights, checked from inside a job.

    python saving.py loopback
    mpirun -n 4 python saving.py mpi DIRECTORY
    mpirun -n 2 python saving.py slow DIRECTORY

Every mesh saves the same small model from shards that are cut here, by plain arithmetic, out of full buffers.
The files are read back with the safetensors library and must hold each parameter exactly; then every rank of
every other mesh loads its shards from them.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from moec.runtime.abi.buffers import Buffer, Slot, lay_out, pieces
from moec.runtime.abi.mesh import Mesh
from moec.runtime.transport.api import Group, Handle, Transport
from moec.runtime.transport.factory import make_transport
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.weights import load, save
from moec.runtime.weights.load import load_shards
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.save import save_weights
from moec.runtime.weights.writer import WeightsWriter

EXPERTS = 5  # divides by no degree but 1
WIDTH = 6
DENSE: dict[str, tuple[int, ...]] = {
    "attention.q": (6, WIDTH),
    "attention.k": (3, WIDTH),
    "experts.router": (EXPERTS, WIDTH),
}
PER_EXPERT: dict[str, tuple[int, ...]] = {
    "experts.expert.{}.gate": (4, WIDTH),
    "experts.expert.{}.down": (WIDTH, 4),
}
TIMEOUT_S, WRITING_S = 3.0, 4.5
BLOCK = 11  # elements at a time, so that blocks, pieces and shards begin and end anywhere


def small_meshes() -> list[Mesh]:
    """All degrees of 1 and 2, and an expert axis so long that some ranks have no expert."""
    meshes = [Mesh(1, 4, 4, 1), Mesh(1, 3, 3, 1)]
    for replicate, shard, expert, expert_shard in product((1, 2), repeat=4):
        if replicate * shard % (expert * expert_shard) == 0:
            meshes.append(Mesh(replicate, shard, expert, expert_shard))
    return meshes


def parameters() -> dict[str, Tensor]:
    """Every parameter of the model; no two elements are alike."""
    layer = {**DENSE, "norm": (WIDTH,)}
    shapes: dict[str, tuple[int, ...]] = {"embed": (7, WIDTH), "final_norm": (WIDTH,), "logits": (7, WIDTH)}
    for index in range(2):
        shapes |= {f"layers.{index}.{path}": shape for path, shape in layer.items()}
        for expert in range(EXPERTS):
            shapes |= {f"layers.{index}.{path.format(expert)}": shape for path, shape in PER_EXPERT.items()}
    made, first = {}, 1
    for name, shape in shapes.items():
        made[name] = torch.arange(first, first + prod(shape), dtype=torch.float32).view(shape)
        first += prod(shape)
    return made


def buffers(mesh: Mesh) -> dict[str, Buffer]:
    """The layout of the model on a mesh, as a plan makes it."""

    def dense(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Buffer:
        slots = [Slot(path, shape, 0, "normal") for path, shape in shapes.items()]
        return lay_out(name, slots, mesh, True, ("shard", "replicate", "shard"), None)

    local = -(-EXPERTS // mesh.expert)
    slots = [Slot(path, shape, 0, "normal", EXPERTS, local) for path, shape in PER_EXPERT.items()]
    axes = ("expert_shard", "expert_replicate", "expert_owner")
    experts = lay_out("expert_matrices", slots, mesh, True, axes, "expert")
    found = {"embed/matrices": dense("matrices", {"embed": (7, WIDTH)})}
    for index in range(2):
        layer = (dense("vectors", {"norm": (WIDTH,)}), dense("matrices", DENSE), experts)
        found |= {f"layers.{index}/{buffer.name}": buffer for buffer in layer}
    found["head/vectors"] = dense("vectors", {"final_norm": (WIDTH,)})
    found["head/matrices"] = dense("matrices", {"logits": (7, WIDTH)})
    return found


def reference_shard(state: str, buffer: Buffer, mesh: Mesh, rank: int, padding: float) -> Tensor:
    """This rank's shard, cut out of the whole buffer; `padding` stands where there is no parameter."""
    region = state.partition("/")[0]
    values, whole = parameters(), torch.full((buffer.numel,), padding)
    for slot in buffer.slots:
        for place in range(slot.local):
            expert = rank % mesh.expert * slot.local + place
            path = slot.path.replace("{}", str(expert))
            name = f"{region}.{path}" if region.startswith("layers") else path
            if slot.experts is None or expert < EXPERTS:
                first = slot.offset + place * prod(slot.shape)
                whole[first : first + prod(slot.shape)] = values[name].flatten()
    index = rank // mesh.expert % mesh.expert_shard if slot.experts is not None else rank % mesh.shard
    size = buffer.numel // (mesh.expert_shard if slot.experts is not None else mesh.shard)
    return whole[index * size : (index + 1) * size].clone()


@dataclass
class Watched:
    """A group that notes how many elements each all-to-all brings; saving uses nothing else."""

    group: Group
    sizes: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        assert name in ("size", "index"), name
        return getattr(self.group, name)

    def all_to_all(self, x: Tensor, send: Sequence[int], receive: Sequence[int]) -> Handle:
        """The group's own."""
        self.sizes.append(sum(receive))
        return self.group.all_to_all(x, send, receive)


def save_from_every_rank(transport: Transport, mesh: Mesh, directory: Path) -> None:
    """All parameters are in the files, bit by bit; rank 0 receives a block at a time, the others nothing."""
    layout = buffers(mesh)
    shards = {
        state: reference_shard(state, buffer, mesh, transport.rank, padding=torch.nan)
        for state, buffer in layout.items()
    }
    groups = {axis: Watched(group) for axis, group in transport.groups(mesh.axes()).items()}
    save_weights(directory, layout, shards, mesh, groups, transport)  # type: ignore[arg-type]
    largest = max((size for group in groups.values() for size in group.sizes), default=0)
    assert largest <= (BLOCK if transport.rank == 0 else 0), largest
    files = [load_file(path) for path in directory.glob("*.safetensors")]  # complete, on every rank
    read = {name: tensor for file in files for name, tensor in file.items()}
    expected = parameters()
    assert sum(map(len, files)) == len(read) == len(expected)
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor), name
    names = ["embed", "head", "layers.00000", "layers.00001"]
    assert sorted(p.name for p in directory.iterdir()) == [
        *(f"{n}.safetensors" for n in names),
        "weights.json",
    ]


def load_on_every_mesh(directory: Path, meshes: Sequence[Mesh]) -> int:
    """On any mesh, each rank gets its shards out of the files, and zeros where there is no parameter."""
    loaded = 0
    reader = WeightsReader(directory)
    reader.verify()
    for mesh in meshes:
        for state, buffer in buffers(mesh).items():
            region = state.partition("/")[0]
            prefix = region if region.startswith("layers") else ""
            for rank in range(mesh.world):
                shard = torch.full((buffer.shard_numel,), torch.nan)
                load_shards(reader, pieces(buffer, prefix, mesh, rank), shard)
                assert torch.equal(shard, reference_shard(state, buffer, mesh, rank, padding=0.0)), (
                    mesh,
                    state,
                )
                loaded += 1
    return loaded


def in_loopback() -> None:
    """Every small mesh, in threads."""
    meshes = small_meshes()
    with tempfile.TemporaryDirectory() as scratch:
        for number, mesh in enumerate(meshes):
            run_ranks(mesh.world, _saver(mesh, Path(scratch) / f"{number}" / "weights"))
        loaded = load_on_every_mesh(Path(scratch) / "0" / "weights", meshes)
    print(json.dumps({"meshes": len(meshes), "loaded": loaded}))


def _saver(mesh: Mesh, directory: Path) -> Callable[[Transport], None]:
    directory.parent.mkdir()
    return lambda transport: save_from_every_rank(transport, mesh, directory)


def under_mpi() -> None:
    """The meshes of this many ranks, one after the other, each replacing what the last one saved."""
    transport = make_transport("mpi")
    (shared,) = {answer for answer in transport.exchange(_scratch(transport.rank)) if answer}
    meshes = [mesh for mesh in small_meshes() if mesh.world == transport.world]
    for mesh in meshes:
        save_from_every_rank(transport, mesh, Path(shared.decode()) / "weights")
        transport.exchange(b"")  # all have looked before it is replaced
    if transport.rank == 0:
        print(json.dumps({"meshes": len(meshes)}))
    transport.close()


def on_a_slow_disk() -> None:
    """Over gloo, whose collectives have a time-out, and writing a layer takes longer.

    Rank 1 waits at the end where rank 0 holds everything, and for its next block where it holds a half.
    """
    write_region = WeightsWriter.write_region

    def slowly(self: WeightsWriter, region: str, *arguments: Any) -> None:
        write_region(self, region, *arguments)
        time.sleep(WRITING_S if region == "layers.0" else 0)

    WeightsWriter.write_region = slowly  # type: ignore[method-assign,assignment]
    transport = make_transport("gloo", timeout_s=TIMEOUT_S)
    meshes = [Mesh(2, 1, 1, 1), Mesh(1, 2, 2, 1)]
    for mesh in meshes:
        save_from_every_rank(transport, mesh, Path(sys.argv[2]) / "weights")
        transport.exchange(b"")
    if transport.rank == 0:
        print(json.dumps({"meshes": len(meshes)}))
    transport.close()


def _scratch(rank: int) -> bytes:
    return sys.argv[2].encode() if rank == 0 else b""


if __name__ == "__main__":
    save.BLOCK = load.BLOCK = BLOCK
    {"loopback": in_loopback, "mpi": under_mpi, "slow": on_a_slow_disk}[sys.argv[1]]()
