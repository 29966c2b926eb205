"""Values that wait in host memory: copies there and back, each in a start half and a wait half.

On an accelerator a copy runs on a stream of its own, from or to pinned memory, beside what is computed. If
host and device are one, it is a copy all the same, made at once: what it was made of is let go.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .transport.api import Handle


@dataclass(frozen=True, slots=True)
class _Done:
    """A copy that was made at once."""

    copy: Tensor

    def wait(self) -> Tensor:
        """The copy."""
        return self.copy


@dataclass(slots=True)
class _OnStream:
    """A copy that another stream makes. What it is made of stays until it has been waited for."""

    copy: Tensor
    source: Tensor | None
    event: torch.cuda.Event

    def wait(self) -> Tensor:
        """The copy; what is computed from here on waits for it, the host does not."""
        torch.cuda.current_stream().wait_event(self.event)
        self.source = None
        return self.copy


class HostMemory:
    """Host memory beside the memory of `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def offload(self, x: Tensor) -> Handle:
        """Start a copy of x in host memory; x belongs to it."""
        if self.device.type == "cpu":
            return _Done(x.clone())
        return self._copied(x, torch.empty_like(x, device="cpu", pin_memory=True))

    def load(self, x: Tensor) -> Handle:
        """Start a copy on the device of what is in host memory."""
        if self.device.type == "cpu":
            return _Done(x.clone())
        return self._copied(x, torch.empty_like(x, device=self.device))

    def _copied(self, source: Tensor, target: Tensor) -> Handle:
        self.stream.wait_stream(
            torch.cuda.current_stream()
        )  # which makes the source, or had the target's memory
        with torch.cuda.stream(self.stream):
            target.copy_(source, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self.stream)
        return _OnStream(target, source, event)

    @cached_property
    def stream(self) -> torch.cuda.Stream:
        """Of all copies, so that one back comes after the one there."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
