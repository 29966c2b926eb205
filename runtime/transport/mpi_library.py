"""The MPI library of this process, by mpi4py: the only file that imports it."""

from __future__ import annotations

import ctypes
import warnings

import torch
from torch import Tensor

from moec.runtime.errors import EnvironmentMismatch

try:
    import mpi4py

    # Initialised by the transport, so that a library that does not fit the launcher can be refused before.
    mpi4py.rc(initialize=False, finalize=True)
    from mpi4py import MPI
except (ImportError, RuntimeError) as error:  # mpi4py itself, or the MPI library that it looks for
    raise EnvironmentMismatch(
        f"no MPI library can be loaded ({error}); load your site's MPI module, or on one machine: "
        "pip install 'moec[local]'"
    ) from error

__all__ = ["FAULT_TOLERANT", "MPI", "gpu_aware", "initialize", "library", "memory"]

FAULT_TOLERANT = "OMPI_MCA_mpi_ft_enable"
"""Set for ranks of an `mpirun --with-ft ulfm`."""


def gpu_aware() -> bool:
    """Whether the MPI library says that it takes pointers to this torch's kind of GPU memory."""
    vendor = "rocm" if torch.version.hip else "cuda"
    query = getattr(ctypes.CDLL(MPI.__file__), f"MPIX_Query_{vendor}_support", None)
    return query is not None and bool(query())


def memory(x: Tensor) -> MPI.buffer:
    """The bytes of a contiguous tensor, where they are."""
    return MPI.buffer.fromaddress(x.data_ptr(), x.numel() * x.element_size())


def library() -> str:
    """The MPI library and its version, such as `Open MPI v5.0.11`; known before MPI is initialised."""
    return " ".join(MPI.Get_library_version().rstrip("\0").splitlines()[0].split(",")[0].split())


def initialize() -> None:
    """MPI_Init, unless the program has done it; with threads, as a watchdog may end the job from its own."""
    if not MPI.Is_initialized():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of foreign launchers: `check_world` finds out
            MPI.Init_thread(MPI.THREAD_MULTIPLE)
