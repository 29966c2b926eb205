"""The same program on another MPI: MPICH computes what Open MPI computes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from mpi_job import MPIS, interpreter, job
from system.command_line import losses, moec_process, status

pytestmark = pytest.mark.mpi


def test_ten_steps_are_the_same_on_both(
    bundle_of_two: Path, text: Path, finished: Path, tmp_path: Path
) -> None:
    """Losses and the weights in the end, and both as on one rank."""
    for mpi in MPIS:
        done = job(2, ["-m", "moec", "run", bundle_of_two, "--data", text, "--out", tmp_path / mpi], mpi=mpi)
        assert done.rc == 0, done.output
        assert (status(tmp_path / mpi)["state"], status(tmp_path / mpi)["step"]) == ("complete", 10)
    one, other = (losses(tmp_path / mpi) for mpi in MPIS)
    assert one == pytest.approx(other, abs=1e-5)
    assert other == pytest.approx(losses(finished), abs=1e-5)
    for path in (tmp_path / "openmpi" / "weights").glob("*.safetensors"):
        theirs = load_file(tmp_path / "mpich" / "weights" / path.name)
        for name, tensor in load_file(path).items():
            assert (tensor - theirs[name]).abs().max() < 1e-4, name


def test_verify_holds_on_mpich_and_starts_its_ranks(bundle_of_two: Path) -> None:
    """`-n` takes the mpirun of the environment that it runs in."""
    told = moec_process("verify", bundle_of_two, "-n", "2", "--json", python=[interpreter("mpich")])
    assert told.code == 0, told.err
    assert json.loads(told.out)["ok"] is True
