"""Registering the operations that are ours with torch, and their kernels with the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._library.custom_ops import CustomOpDef

KERNELS: dict[str, Callable[..., Any]] = {}
"""Operation name -> the function that computes it: an executor calls it, past torch's dispatcher."""


def operation(name: str) -> Callable[[Callable[..., Any]], CustomOpDef]:
    """A decorator: the function is the kernel of `moec::<name>`, which writes to none of its arguments."""

    def register(function: Callable[..., Any]) -> CustomOpDef:
        KERNELS[name] = function
        return torch.library.custom_op(f"moec::{name}", function, mutates_args=())

    return register
