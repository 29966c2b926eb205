"""What cannot be connected says so, with the exit code of its kind."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from moec.runtime.errors import EnvironmentMismatch, ExitCode, UserError
from moec.runtime.launch import Launch
from moec.runtime.transport.factory import make_transport
from moec.runtime.transport.mpi import _Progress

ALONE = Launch(rank=0, world=1, local_rank=0, kind="single")


def test_an_unknown_name_is_the_users_error_and_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"choose one of self, mpi, gloo, nccl"):
        make_transport("carrier-pigeon", launch=ALONE)


def test_nccl_without_a_gpu_is_an_error_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentMismatch, match="needs a GPU"):
        make_transport("nccl", launch=ALONE)


def test_gpu_tensors_over_an_mpi_that_takes_none_are_refused() -> None:
    """In a process of its own, which it makes an MPI process."""
    program = (
        "import sys, torch; from moec.runtime.guard import run_rank;"
        "from moec.runtime.transport import mpi; mpi.gpu_aware = lambda: False;"
        "sys.exit(run_rank(lambda: mpi.MpiTransport(torch.device('cuda', 0)).rank))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ran.returncode == ExitCode.ENVIRONMENT
    assert "moec: error: tensors on cuda:0 need a GPU-aware MPI, which this is not: " in ran.stderr


def test_the_self_transport_in_a_job_of_several_is_refused() -> None:
    with pytest.raises(
        EnvironmentMismatch, match=r"torchrun.*as one of 4, but the self transport.*for one rank"
    ):
        make_transport("self", launch=Launch(rank=0, world=4, local_rank=0, kind="torchrun"))


def test_self_and_loopback_load_neither_mpi4py_nor_torch_distributed_groups() -> None:
    program = (
        "import sys; from moec.runtime.transport.factory import make_transport; make_transport('self');"
        "import moec.runtime.transport.loopback;"
        "print([name for name in ('mpi4py', 'moec.runtime.transport.torch_dist') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_more_rows_than_mpi_counts_are_refused_before_anything_is_sent() -> None:
    with pytest.raises(ValueError, match=r"2147483648 rows of 4 bytes; MPI counts to 2147483647"):
        _Progress().row_type(4, 2**31)
