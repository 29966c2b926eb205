"""Every rank of every layout reads its shards out of a published checkpoint, fused tensors included."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from exchange.families import Published
from moec import dsl
from moec.cli.exchange.source import all_shapes
from moec.compiler.build.model import Shape, build
from moec.compiler.emit.bundle import save
from moec.compiler.emit.weight_map import weight_map
from moec.compiler.pipeline import compile_spec
from moec.compiler.plan.plan import make_plan
from moec.runtime.abi.buffers import Buffer, pieces, state_name
from moec.runtime.abi.bundle import read_bundle
from moec.runtime.abi.mesh import Mesh
from moec.runtime.initialise import parameter_shapes
from moec.runtime.state import parameter_prefix
from moec.runtime.weights import load, strided
from moec.runtime.weights.huggingface import HuggingFaceReader
from moec.runtime.weights.load import load_shards
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.stored import StoredTensors

MESHES = [
    Mesh(1, 1, 1, 1), Mesh(1, 2, 2, 1), Mesh(2, 1, 1, 2), Mesh(1, 3, 3, 1),
    Mesh(2, 2, 2, 2), Mesh(1, 4, 4, 1), Mesh(2, 2, 1, 1), Mesh(1, 8, 4, 2),
]  # fmt: skip
"""Degrees replicate, shard, expert and expert_shard."""


def states(spec: dsl.Spec, mesh: Mesh) -> dict[str, Buffer]:
    """The buffers of a compilation for this mesh."""
    reference = build(spec.model, Shape(1, 4, torch.float32))
    buffers = make_plan(reference, mesh, spec).buffers
    return {state_name(at, b): b for at, kind in reference.chain for b in buffers[kind]}


def shards(
    reader: StoredTensors, buffers: dict[str, Buffer], mesh: Mesh, rank: int
) -> dict[str, torch.Tensor]:
    """All that a rank holds."""
    found = {}
    for name, buffer in buffers.items():
        found[name] = torch.full((buffer.shard_numel,), torch.nan)
        load_shards(reader, pieces(buffer, parameter_prefix(name), mesh, rank), found[name])
    return found


@pytest.mark.parametrize("name", ["granitemoe", "dbrx", "llama4", "gpt_oss"])
def test_ranks_read_the_same_from_tensors_of_many_parameters(
    name: str,
    published: Callable[[str], Published],
    imported: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As from the import, in which every parameter is by itself; in blocks that begin and end anywhere."""
    monkeypatch.setattr(load, "BLOCK", 777)
    monkeypatch.setattr(strided, "COVER", 5000)
    spec = dsl.load(imported(name) / "model.moe")
    assert spec.checkpoint is not None
    assert sum(len(tensor.parameters) for tensor in spec.checkpoint.tensors if tensor.forms) > 30
    theirs = HuggingFaceReader(published(name).directory, weight_map(spec.checkpoint), all_shapes(spec))
    ours = WeightsReader(imported(name) / "weights")
    for mesh in MESHES:
        buffers = states(spec, mesh)
        for rank in range(mesh.world):
            wanted = shards(ours, buffers, mesh, rank)
            for state, shard in shards(theirs, buffers, mesh, rank).items():
                assert torch.equal(shard, wanted[state]), (mesh, rank, state)


def test_a_bundle_has_the_whole_map(imported: Callable[[str], Path], tmp_path: Path) -> None:
    """And a run that starts from a published checkpoint knows all shapes that it needs."""
    spec = dsl.load(imported("gpt_oss") / "model.moe", ["train.sequence=8", "train.batch=1 sequences"])
    save(compile_spec(spec), tmp_path / "bundle")
    bundle = read_bundle(tmp_path / "bundle")
    assert bundle.checkpoint == weight_map(spec.checkpoint)
    assert parameter_shapes(bundle.manifest) == all_shapes(spec)
