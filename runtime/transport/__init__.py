"""Transports: self, loopback, mpi and torch, behind one protocol."""

from __future__ import annotations

from importlib import import_module

import torch

from moec.runtime.errors import UserError
from moec.runtime.transport.api import Transport
from moec.runtime.transport.single import SingleTransport

NAMES = ("self", "mpi", "gloo", "nccl")


def make_transport(name: str, *, device: torch.device | None = None, timeout_s: float = 600.0) -> Transport:
    """Connect this process to its job."""
    match name:
        case "self":
            return SingleTransport(device)
        case "mpi":
            transport: Transport = import_module("moec.runtime.transport.mpi").MpiTransport(device)
            return transport
    raise UserError(f"no transport is called {name!r}; there are {', '.join(NAMES)}")
