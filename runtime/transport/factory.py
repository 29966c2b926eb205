"""Making the transport that a user names. Each is imported when asked for, with the libraries it needs."""

from __future__ import annotations

from importlib import import_module

import torch

from moec.runtime.errors import EnvironmentMismatch, UserError
from moec.runtime.launch import Launch, check_library, check_world, discover
from moec.runtime.transport.api import Transport
from moec.runtime.transport.single import SingleTransport

NAMES = ("self", "mpi", "gloo", "nccl")


def make_transport(
    name: str,
    *,
    device: torch.device | None = None,
    timeout_s: float = 600.0,
    launch: Launch | None = None,
) -> Transport:
    """Connect this process to its job.

    `device` is where tensors are, for `self` and `mpi`; gloo and nccl have their own. `timeout_s` bounds each
    collective of gloo and nccl; MPI has no time-out. `launch` says how the process was started (default:
    look). Raises `EnvironmentMismatch` if the machine has not what the transport needs.
    """
    if name not in NAMES:
        raise UserError(f"there is no transport {name!r}; choose one of {', '.join(NAMES)}")
    return _connect(name, device, timeout_s, launch or discover())


def connect_mpi(launch: Launch, device: torch.device | None = None) -> Transport:
    """The mpi transport, if launcher and library are of one MPI; else `EnvironmentMismatch`."""
    mpi = import_module("moec.runtime.transport.mpi")
    check_library(launch, mpi.library())
    transport: Transport = mpi.MpiTransport(device)
    check_world(launch, transport)
    return transport


def _connect(name: str, device: torch.device | None, timeout_s: float, launch: Launch) -> Transport:
    if name == "self":
        if launch.world not in (None, 1):
            raise EnvironmentMismatch(
                f"{launch.launcher} started this process as one of {launch.world}, but the self transport is "
                "for one rank; use mpi, gloo or nccl"
            )
        return SingleTransport(device)
    if name == "mpi":
        return connect_mpi(launch, device)
    torch_dist = import_module("moec.runtime.transport.torch_dist")
    options = {"local_rank": launch.local_rank, "timeout_s": timeout_s}
    if launch.kind == "torchrun":
        transport: Transport = torch_dist.connect_torchrun(name, **options)
    else:
        control = connect_mpi(launch) if launch.by_mpi else SingleTransport()
        transport = torch_dist.connect_over(control, name, **options)
    return transport
