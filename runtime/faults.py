"""Faults on purpose: the one hook by which a run can be made to fail at a chosen place.

    MOEC_FAULT="kill@rank=1,step=3" moec run BUNDLE ... --enable-fault-injection

Several faults are separated by `;`. Each is `KIND@KEY=VALUE,...`:

    rank=N     on that rank only; on all ranks without it
    step=N     before step N, counted from 0 as in metrics.jsonl
    point=NAME at that place of the program (`fault_point`), such as checkpoint.before_rename
    times=N    how often, in a row of steps or at each passing of the point: 1 without it, `always` for ever
    seconds=X  how long `sleep` sleeps
    factor=X   what `spike` multiplies parameters by
    at=BUFFER  whose gradient `nan` and `inf` go into, such as layers.0/expert_matrices

A fault has a step, a point, or both: then it waits for its point from that step on. Without
`--enable-fault-injection` a run that finds the variable set is refused, so that no fault is left behind in
somebody's shell. `runtime/fault_kinds.py` has the kinds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from moec.runtime.errors import UserError

VARIABLE = "MOEC_FAULT"
OPTION = "--enable-fault-injection"
ALWAYS = 1 << 62


@dataclass(frozen=True)
class Fault:
    """One fault, as written. `rank`, `step` and `point` are None where they were not given."""

    kind: str
    rank: int | None = None
    step: int | None = None
    point: str | None = None
    times: int = 1
    seconds: float = 0.2
    factor: float = 30.0
    at: str = ""

    def __str__(self) -> str:
        given = [(f.name, getattr(self, f.name)) for f in fields(self)[1:]]
        default = Fault(self.kind)
        return f"{self.kind}@" + ",".join(f"{k}={v}" for k, v in given if v != getattr(default, k))


def parse(text: str, kinds: tuple[str, ...]) -> tuple[Fault, ...]:
    """What `MOEC_FAULT` says. Raises UserError naming the part that cannot be read."""
    return tuple(_fault(part.strip(), kinds) for part in text.split(";") if part.strip())


def _fault(text: str, kinds: tuple[str, ...]) -> Fault:
    kind, _, rest = text.partition("@")
    if kind not in kinds:
        raise UserError(f"{VARIABLE}: there is no fault {kind!r}; there are {', '.join(kinds)}")
    given = [part.partition("=") for part in rest.split(",") if part]
    found = Fault(kind, **{key: _value(text, key, value) for key, _, value in given})
    if found.step is None and found.point is None:
        raise UserError(f"{VARIABLE}: {text}: give a step or a point, such as {kind}@rank=1,step=3")
    return found


def _value(fault: str, key: str, text: str) -> Any:
    try:
        return _KEYS[key](text)
    except KeyError:
        raise UserError(f"{VARIABLE}: {fault}: no key {key!r}; there are {', '.join(_KEYS)}") from None
    except ValueError:
        raise UserError(f"{VARIABLE}: {fault}: {key} cannot be {text!r}") from None


def _whole(text: str) -> int:
    return int(_matching(r"\d{1,9}", text))


def _matching(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text):
        raise ValueError(text)
    return text


_KEYS: dict[str, Callable[[str], Any]] = {
    "rank": _whole,
    "step": _whole,
    "point": lambda text: _matching(r"[a-z][a-z0-9_.]*", text),
    "times": lambda text: ALWAYS if text == "always" else _whole(text),
    "seconds": float,
    "factor": float,
    "at": lambda text: _matching(r"[A-Za-z0-9_./]+", text),
}


class Injector:
    """The faults of this rank. `strike(fault)` makes one happen; it need not return."""

    def __init__(self, faults: tuple[Fault, ...], rank: int, strike: Callable[[Fault], None]) -> None:
        self.rank, self.step = rank, -1  # during set-up: no step yet
        self._left = {fault: fault.times for fault in faults if fault.rank in (None, rank)}
        self._strike = strike

    def at_step(self, step: int) -> None:
        """Step `step` comes next."""
        self.step = step
        for fault in [*self._left]:
            if fault.point is None and fault.step is not None and step >= fault.step:
                self._happen(fault)

    def at_point(self, name: str) -> None:
        """The program is at this place."""
        for fault in [*self._left]:
            if fault.point == name and self.step >= (fault.step if fault.step is not None else -1):
                self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        self._left[fault] -= 1
        if not self._left[fault]:
            del self._left[fault]
        self._strike(fault)


_armed: Injector | None = None  # of the process, for all of its threads


def arm(injector: Injector | None) -> None:
    """From now on, `fault_point` asks this injector; None: it does nothing again."""
    global _armed  # noqa: PLW0603 (a hook that any depth of any thread can call is one of the process)
    _armed = injector


def fault_point(name: str) -> None:
    """A place where a fault can be told to happen; nothing, unless faults are armed."""
    if _armed is not None:
        _armed.at_point(name)


def written(enabled: bool, environment: Mapping[str, str] = os.environ) -> str:
    """What `MOEC_FAULT` holds, empty where nothing is to be injected.

    Raises UserError where it is set and injection is not enabled, or the other way round.
    """
    text = environment.get(VARIABLE, "").strip()
    if text and not enabled:
        raise UserError(f"{VARIABLE} is set to {text!r}: unset it, or give {OPTION}")
    if enabled and not text:
        raise UserError(f"{OPTION}: {VARIABLE} says which fault, such as {VARIABLE}='kill@rank=1,step=3'")
    return text
