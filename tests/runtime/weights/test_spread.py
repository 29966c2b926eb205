"""Weights that one rank reads reach the shards of all, whatever the mesh, a block at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from moec.runtime.abi.mesh import Mesh
from moec.runtime.initialise import check_initialised
from moec.runtime.state import TrainState
from moec.runtime.transport.loopback import run_ranks
from moec.runtime.weights import spread as spreading
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.spread import spread
from moec.runtime.weights.writer import WeightsWriter

from .saving import buffers, parameters, reference_shard, small_meshes

CPU = torch.device("cpu")
BLOCK = 12


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `saving.py` on disk."""
    folder = tmp_path_factory.mktemp("weights") / "model"
    with WeightsWriter(folder) as writer:
        shapes = {name: tuple(tensor.shape) for name, tensor in parameters().items()}
        blocks = ((name, tensor.flatten()) for name, tensor in parameters().items())
        writer.write_region("all", shapes, torch.float32, blocks)
    return folder


@pytest.mark.parametrize("mesh", small_meshes(), ids=str)
def test_every_rank_gets_its_shards(mesh: Mesh, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts that do not divide, replicas, ranks without experts; in float64, from float32 on disk.

    No message and no read is larger than a block.
    """
    monkeypatch.setattr(spreading, "BLOCK", BLOCK)
    largest = {"read": 0, "sent": 0}

    class Watching(WeightsReader):
        """Notes what is read."""

        def read(self, name: str, start: int, count: int) -> torch.Tensor:
            """As the base class."""
            largest["read"] = max(largest["read"], count)
            return super().read(name, start, count)

    def run(transport: Any) -> None:
        state = TrainState(buffers(mesh), mesh, transport.rank, torch.float64, CPU)
        group = _Watched(transport.groups({"data": [range(mesh.world)]})["data"], largest)
        spread(Watching(weights) if transport.rank == 0 else None, state, group, CPU)  # type: ignore[arg-type]
        check_initialised(state, transport)
        for name, shard in state.parameters.items():
            expected = reference_shard(name, state.buffers[name], mesh, transport.rank, 0.0)
            assert torch.equal(shard, expected.double()), name

    run_ranks(mesh.world, run)
    assert 0 < largest["read"] <= BLOCK
    assert 0 < largest["sent"] <= BLOCK


class _Watched:
    """A group that notes how many elements it is given to send."""

    def __init__(self, group: Any, largest: dict[str, int]) -> None:
        self._group, self._largest, self.size = group, largest, group.size

    def all_to_all(self, x: torch.Tensor, send: list[int], receive: list[int]) -> Any:
        self._largest["sent"] = max(self._largest["sent"], x.numel())
        return self._group.all_to_all(x, send, receive)
