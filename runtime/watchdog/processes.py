"""Processes of this machine, told apart from later ones of the same number."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def born(pid: int) -> int:
    """When a process of this machine was started, in ticks; 0 where there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if fields[0] in "ZX" else int(fields[19])


def this_host() -> str:
    """The name of this machine, as far as it tells machines of a job apart; containers count as machines."""
    try:
        namespace = os.readlink("/proc/self/ns/pid")
    except OSError:
        namespace = ""
    return f"{socket.gethostname()} {namespace}".strip()
