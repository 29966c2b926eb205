"""Who started this process, told from the environments that real launchers leave."""

from __future__ import annotations

import pytest

from moec.runtime.errors import EnvironmentMismatch, ExitCode, ForeignLauncher
from moec.runtime.launch import Launch, check_library, check_world, discover
from moec.runtime.transport.single import SingleTransport

OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
            "PMIX_RANK": "3"}  # fmt: skip
MPICH = {"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "2"}
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "6",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "localhost",
    "MASTER_PORT": "29500",
}
BATCH_SCRIPT = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}
STEP = BATCH_SCRIPT | {
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "2",
}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, Launch(0, 1, 0, "single")),
        (OPEN_MPI, Launch(3, 8, 1, "openmpi")),
        (MPICH, Launch(2, 4, 2, "pmi")),
        (TORCHRUN, Launch(5, 6, 1, "torchrun")),
        (STEP, Launch(1, 2, 1, "slurm")),
        (STEP | {"PMIX_RANK": "1"}, Launch(1, 2, 1, "pmix")),
        ({"PMIX_RANK": "1"}, Launch(1, None, 0, "pmix")),
        (BATCH_SCRIPT, Launch(0, 1, 0, "single")),
        (BATCH_SCRIPT | OPEN_MPI, Launch(3, 8, 1, "openmpi")),
        (STEP | OPEN_MPI, Launch(3, 8, 1, "openmpi")),
        (TORCHRUN | MPICH, Launch(2, 4, 2, "pmi")),
        ({"RANK": "5"}, Launch(0, 1, 0, "single")),
    ],
    ids=[
        "none", "open mpi", "mpich", "torchrun", "srun", "srun with pmix", "pmix alone", "batch script",
        "mpirun in a batch script", "mpirun's daemon in a step", "mpich after torchrun", "some other RANK",
    ],
)  # fmt: skip
def test_the_launcher_nearest_to_the_rank_wins(environment: dict[str, str], expected: Launch) -> None:
    assert discover(environment) == expected


def test_a_rank_that_is_no_number_is_named() -> None:
    with pytest.raises(EnvironmentMismatch, match=r"PMI_RANK is '1;rm'"):
        discover({"PMI_RANK": "1;rm", "PMI_SIZE": "2"})


@pytest.mark.parametrize("kind", ["openmpi", "pmi", "pmix", "slurm"])
def test_a_world_of_singletons_is_refused_with_both_sides_named(kind: str) -> None:
    with pytest.raises(
        ForeignLauncher, match=r"as one of 2, but the self transport .torch .* sees 1.*mpirun"
    ) as caught:
        check_world(Launch(0, 2, 0, kind), SingleTransport())
    assert caught.value.exit_code == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    "launch", [Launch(0, 1, 0, "openmpi"), Launch(0, None, 0, "pmix"), Launch(0, 1, 0, "single")]
)
def test_a_world_that_agrees_or_is_not_told_passes(launch: Launch) -> None:
    check_world(launch, SingleTransport())


def test_a_library_that_the_launcher_cannot_start_is_refused_before_it_is_initialised() -> None:
    check_library(Launch(0, 2, 0, "openmpi"), "Open MPI v5.0.11")
    check_library(Launch(0, 2, 0, "pmi"), "MPICH Version: 5.0.2")
    with pytest.raises(ForeignLauncher, match=r"Open MPI's mpirun.*but mpi4py uses MPICH Version: 5.0.2"):
        check_library(Launch(0, 2, 0, "openmpi"), "MPICH Version: 5.0.2")
