"""Weights are saved from the shards of any mesh, and loaded into those of any other."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from moec.runtime.abi.buffers import Buffer, Slot, lay_out
from moec.runtime.abi.mesh import Mesh
from moec.runtime.errors import InternalError, UserError
from moec.runtime.transport.loopback import LoopbackTransport, run_ranks
from moec.runtime.weights.save import check_coverage, save_weights
from mpi_job import JobResult, job, run

SAVING = Path(__file__).with_name("saving.py")
MESH = Mesh(1, 2, 2, 1)


def report(result: JobResult) -> dict[str, int]:
    assert not result.timed_out, result.output
    assert result.rc == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("{")]
    found: dict[str, int] = json.loads(line)
    return found


def test_every_small_mesh_saves_the_same_files_and_loads_them() -> None:
    """13 meshes of 1 to 4 ranks: replicas, expert shards, experts that do not divide, a rank without any."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = report(run([sys.executable, str(SAVING), "loopback"], environment, timeout_s=200))
    assert found == {"meshes": 13, "loaded": 9 * 36}  # states x ranks of all meshes


@pytest.mark.mpi
def test_ranks_under_mpirun_save_and_replace(tmp_path: Path) -> None:
    """Five meshes of four ranks, each replacing the files of the last."""
    assert report(job(4, [SAVING, "mpi", tmp_path])) == {"meshes": 5}


@pytest.mark.mpi
def test_a_disk_slower_than_a_time_out_ends_no_job(tmp_path: Path) -> None:
    """Weights that took hours are not lost because rank 0 writes for longer than a collective may take."""
    assert report(job(2, [SAVING, "slow", tmp_path])) == {"meshes": 2}


def buffer(*slots: Slot) -> Buffer:
    return lay_out("matrices", list(slots), MESH, True, ("shard", "replicate", "shard"), None)


def test_a_layout_that_holds_an_element_twice_or_never_is_refused() -> None:
    """`check_coverage` speaks before anything is written; a layout is wrong only by a mistake of ours."""
    good = buffer(Slot("a", (3, 2), 0, "normal"), Slot("b", (5,), 0, "normal"))
    check_coverage({"embed/matrices": good}, MESH)
    short = replace(good, numel=10)
    with pytest.raises(InternalError, match=r"embed/matrices: b lacks 1 elements"):
        check_coverage({"embed/matrices": short}, MESH)
    a, b = good.slots
    with pytest.raises(InternalError, match=r"b lacks 1 elements|does not go on"):
        check_coverage({"embed/matrices": replace(good, slots=(b, replace(a, offset=4)))}, MESH)
    with pytest.raises(InternalError, match="a is in another buffer, too"):
        check_coverage({"embed/matrices": good, "head/matrices": good}, MESH)
    with pytest.raises(InternalError, match="does not go on"):
        check_coverage({"embed/matrices": replace(good, slots=(a, replace(a, offset=6)))}, MESH)
    few = Slot("expert.{}.up", (2, 2), 0, "normal", 3, 1)  # place for two of three
    axes = ("expert_shard", "expert_replicate", "expert_owner")
    with pytest.raises(InternalError, match=r"layers.0/experts: layers.0.expert.2.up is not held"):
        check_coverage({"layers.0/experts": lay_out("experts", [few], MESH, True, axes, "expert")}, MESH)


def test_a_failure_of_rank_0_ends_the_job_and_leaves_what_was_there(tmp_path: Path) -> None:
    """The other ranks wait in their first collective and are woken."""
    target = tmp_path / "weights"
    target.mkdir()
    (target / "thesis.tex").write_text("all of it")
    whole = buffer(Slot("embed", (4, 2), 0, "normal"))

    def main(transport: LoopbackTransport) -> None:
        groups = transport.groups(MESH.axes())
        shards = {"embed/matrices": torch.zeros(4)}
        save_weights(target, {"embed/matrices": whole}, shards, MESH, groups, transport)

    with pytest.raises(UserError, match=r"thesis.tex"):
        run_ranks(2, main)
    assert [path.name for path in tmp_path.rglob("*")] == ["weights", "thesis.tex"]
