"""What a scheduler takes: names, times and amounts, as a user writes them, or what is wrong with them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from moec.runtime.errors import UserError

from .request import Scheduler

MOST_TIME_S = 366 * 86_400
MOST_LEAD_S = 65_535
"""Slurm keeps it in 16 bits."""
MOST_MEMORY_MIB = 1 << 30

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_CLOCK = re.compile(r"(?:(\d{1,3})-)?(\d{1,4}):([0-5]\d):([0-5]\d)")
_UNITS = re.compile(r"(\d{1,9})([smhd])")
_MEMORY = re.compile(r"(\d{1,9})([MGT])(i?B)?", re.IGNORECASE)
_MIB = {"M": 1, "G": 1024, "T": 1024 * 1024}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.,:+@=/-]*")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class _Naming:
    """How a scheduler names jobs."""

    length: int
    letter_first: bool


_NAMING: dict[Scheduler, _Naming] = {
    "slurm": _Naming(64, letter_first=False),
    "pbs": _Naming(230, letter_first=True),
    "lsf": _Naming(230, letter_first=False),
    "mpirun": _Naming(64, letter_first=False),
}


def seconds(text: str, option: str) -> int:
    """`24:00:00`, `2-12:00:00`, `90m`, `1d12h`, `180s`. Raises UserError."""
    if found := _CLOCK.fullmatch(text):
        days, hours, minutes, rest = (int(part or 0) for part in found.groups())
        total = days * 86_400 + hours * 3600 + minutes * 60 + rest
    elif re.fullmatch(rf"(?:{_UNITS.pattern})+", text):
        total = sum(int(count) * _UNITS_S[unit] for count, unit in _UNITS.findall(text))
    else:
        raise UserError(f"{option} {text!a}: a time is HH:MM:SS, D-HH:MM:SS, or such as 90m, 1d12h, 180s")
    if not 0 < total <= MOST_TIME_S:
        raise UserError(f"{option} {text!a} is {total} s; it is at least 1 s and at most 366d")
    return total


def mebibytes(text: str, option: str = "--mem") -> int:
    """`64G`, `512000M`, `1.5T` is not one. Raises UserError."""
    found = _MEMORY.fullmatch(text)
    amount = int(found[1]) * _MIB[found[2].upper()] if found else 0
    if not 0 < amount <= MOST_MEMORY_MIB:
        raise UserError(
            f"{option} {text!a}: the memory of a node is a whole number with M, G or T, such as 64G"
        )
    return amount


def job_name(text: str, scheduler: Scheduler, option: str = "--name") -> str:
    """A name for a job. Raises UserError with the nearest legal one."""
    nearest = nearest_name(text, scheduler)
    if text != nearest:
        rule = _NAMING[scheduler]
        first = "a letter" if rule.letter_first else "a letter or digit"
        raise UserError(
            f"{option} {text[:80]!a}: {scheduler} takes letters, digits, `.`, `_` and `-`, {first} first, "
            f"{rule.length} at most; the nearest legal name is {nearest}"
        )
    return text


def nearest_name(text: str, scheduler: Scheduler) -> str:
    """What is left of a text when it has become a legal name."""
    rule = _NAMING[scheduler]
    kept = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip("._-")
    if not kept or (rule.letter_first and not kept[0].isalpha()):
        kept = f"moec_{kept}".rstrip("_")
    return kept[: rule.length]


def words(text: str, option: str) -> str:
    """A queue, a partition, an account. Raises UserError."""
    if not _WORDS.fullmatch(text) or len(text) > 256:
        raise UserError(
            f"{option} {text[:80]!a}: a name is of letters, digits and any of `_.,:+@=/-`, and begins with a "
            "letter or digit"
        )
    return text


def hosts(text: str, nodes: int) -> tuple[str, ...]:
    """`a,b,c`: as many different ones as there are nodes. Raises UserError."""
    found = tuple(text.split(","))
    for host in found:
        if not _HOST.fullmatch(host) or len(host) > 253:
            raise UserError(f"--hosts: {host[:80]!a} is no name of a host")
    if len(set(found)) != nodes or len(found) != nodes:
        raise UserError(f"--hosts names {len(set(found))} hosts, and --nodes is {nodes}")
    return found


def one_line(text: str, option: str) -> str:
    """A line that is written as it is. Raises UserError where it is more than one, or not legible."""
    if not text.isprintable() or not text.strip():
        raise UserError(f"{option} {text[:80]!a}: one printable line is expected")
    return text


def lead(text: str) -> int:
    """The time from the signal to the end. Raises UserError."""
    found = seconds(text, "--signal-lead")
    if found > MOST_LEAD_S:
        raise UserError(f"--signal-lead {text} is {found} s; it is at most {MOST_LEAD_S} s")
    return found
