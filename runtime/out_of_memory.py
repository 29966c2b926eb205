"""What is said where a rank has no more memory: how much it wanted, what it holds, and what was planned."""

from __future__ import annotations

import re
import resource
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from moec.runtime.errors import ExitCode, RuntimeFailure

_WANTED = re.compile(r"tried to allocate (\d+) bytes|[Tt]ried to allocate ([\d.]+ [KMGT]iB)")
_SIGNS = ("can't allocate memory", "not enough memory", "out of memory")


class OutOfMemory(RuntimeFailure):
    """A tensor, or something else, found no room on the host or the device."""

    exit_code = ExitCode.OUT_OF_MEMORY


def named(error: BaseException, planned: Mapping[str, int], device: torch.device) -> OutOfMemory | None:
    """The failure to report if an error, or what caused it, is that memory is at an end; else None.

    `planned` has the bytes of the parts of the state that this rank holds all the time.
    """
    cause: BaseException | None = error
    while cause is not None and not _is_it(cause):
        cause = cause.__cause__
    if cause is None:
        return None
    found = _WANTED.search(str(cause))
    wanted = f" for {_bytes(int(found[1])) if found[1] else found[2]}" if found else ""
    parts = ", ".join(f"{name} {_bytes(size)}" for name, size in planned.items())
    state = f"; its state is {_bytes(sum(planned.values()))} ({parts}), and activations come on top"
    return OutOfMemory(
        f"there is no memory{wanted}: {_held(device)}{state if planned else ''}. `memory.recompute`, "
        "`memory.loss_chunk`, more `train.micro_batches` or more ranks need less",
        operation=getattr(error, "operation", ""),
        origin=getattr(error, "origin", ""),
    )


def _is_it(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _held(device: torch.device) -> str:
    pages = 0
    with suppress(OSError, ValueError, IndexError):
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    host = f"this rank holds {_bytes(pages * resource.getpagesize())} of the host"
    if device.type != "cuda":
        return host
    return f"{host} and {_bytes(torch.cuda.memory_allocated(device))} of {device}"


def _bytes(size: int) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            return f"{size:.1f} {unit}" if unit != "B" else f"{size} B"
        size /= 1000  # type: ignore[assignment]
    raise AssertionError
