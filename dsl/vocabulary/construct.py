"""What the tables of the language are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "component",
    "position",
    "qk_norm",
    "gate",
    "temperature",
    "stage",
    "balance",
    "dispatch",
    "optimizer",
    "schedule",
    "saving",
    "remedy",
    "warning",
    "validation",
    "recompute",
    "offload",
    "init",
    "pattern",
    "function",
]


@dataclass(frozen=True)
class Param:
    """An argument of a construct, or a setting of a block.

    `default` is text of the language; None where the argument is required. `derived` says that the default
    follows from other values (`default` is then its formula in words). `takes_none` says that `none` is a
    value of its own; elsewhere `none` in an override means the default. `takes`: the roles of constructs that
    can be its value, so that a bare name such as `rope` is a call without arguments. A default that follows
    from, or goes with, the argument `rival` does not hold where that one is given.
    """

    name: str
    value: str  # what it takes, in words
    default: str | None = None
    derived: bool = False
    takes_none: bool = False
    supported: bool = True
    takes: tuple[Role, ...] = ()
    rival: str = ""
    opened: str = ""  # what a path into it takes `none` for: `train.checkpoint.every=100`
    meaning: str = ""  # what it does, where its name and the construct's meaning do not say it

    @property
    def real(self) -> bool:
        """Whether it takes a number that need not be whole."""
        return "number" in self.value and "whole" not in self.value


@dataclass(frozen=True)
class Construct:
    """Something that is called: `gqa(...)`, `top(2)`. With `positional`, its first argument needs no name."""

    name: str
    role: Role
    params: tuple[Param, ...] = ()
    positional: bool = False
    meaning: str = ""  # what it computes, with its equation and source
    users: str = ""  # who uses it
    supported: bool = True

    def param(self, name: str) -> Param | None:
        """Its parameter of this name."""
        return next((p for p in self.params if p.name == name), None)
