"""Every transport keeps the contract: `contract.py`, run once per transport and number of ranks."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from mpi_job import JobResult, Mpi, job, run

CONTRACT = Path(__file__).with_name("contract.py")


def passed(result: JobResult) -> list[dict[str, object]]:
    """The reports of a run in which all ranks passed all checks."""
    assert not result.timed_out, result.output
    assert result.rc == 0, result.output
    assert result.survivors == 0
    return [json.loads(line) for line in result.output.splitlines() if line.startswith("{")]


def alone(*argv: str) -> JobResult:
    return run([sys.executable, str(CONTRACT), *argv], {**os.environ, "OMP_NUM_THREADS": "1"}, timeout_s=120)


def test_self_keeps_the_contract() -> None:
    (report,) = passed(alone("self"))
    assert (report["transport"], report["world"]) == ("self", 1)


def test_loopback_keeps_the_contract_at_1_to_8_ranks() -> None:
    reports = passed(alone("loopback", *map(str, range(1, 9))))
    assert [report["world"] for report in reports] == list(range(1, 9))
    assert {report["transport"] for report in reports} == {"loopback"}


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("mpi", "world"),
    [
        ("openmpi", 1),
        ("openmpi", 2),
        ("openmpi", 3),
        ("openmpi", 4),
        ("openmpi", 8),
        ("mpich", 1),
        ("mpich", 2),
        ("mpich", 4),
        pytest.param("mpich", 3, marks=pytest.mark.slow),
        pytest.param("mpich", 8, marks=pytest.mark.slow),
    ],
)
def test_mpi_keeps_the_contract(mpi: Mpi, world: int) -> None:
    (report,) = passed(job(world, [CONTRACT, "mpi"], mpi=mpi, timeout_s=240))
    assert (report["transport"], report["world"]) == ("mpi", world)


@pytest.mark.mpi
@pytest.mark.parametrize("world", [1, 2, 4])
def test_gloo_keeps_the_contract(world: int) -> None:
    (report,) = passed(job(world, [CONTRACT, "gloo"], timeout_s=240))
    assert (report["transport"], report["world"]) == ("gloo", world)


@pytest.mark.mpi
def test_sums_left_to_the_backend_keep_the_contract() -> None:
    """The path that NCCL takes, on gloo: reduce_scatter of torch.distributed instead of ours."""
    (report,) = passed(job(3, [CONTRACT, "gloo", "native"], timeout_s=240))
    assert (report["transport"], report["world"]) == ("gloo", 3)


@pytest.mark.mpi
def test_torchrun_starts_gloo_without_mpi() -> None:
    """Ranks that torchrun started meet at its store, and load no MPI."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    result = run([*torchrun, str(CONTRACT), "gloo"], {**os.environ, "OMP_NUM_THREADS": "1"}, timeout_s=120)
    (report,) = passed(result)
    assert (report["transport"], report["world"]) == ("gloo", 2)
