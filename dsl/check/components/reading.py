"""What all components read their arguments with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments
from moec.dsl.check.values import Scope, flag, is_none, real, whole, word
from moec.dsl.diagnostics import DiagnosticBag, Kind

W = TypeVar("W", bound=str)
T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Context:
    """What the components of a model are checked against. `width` is None where it could not be read."""

    width: int | None
    scope: Scope
    bindings: Mapping[str, s.Expr]  # every binding of the model, as written
    bag: DiagnosticBag


@dataclass(frozen=True)
class Read:
    """The arguments of one call as values. An argument at fault is reported and read as its default."""

    args: Arguments
    context: Context

    @property
    def origin(self) -> m.Origin:
        """Where the call stands."""
        return self.args.call.span.origin()

    def value(self, name: str, reader: Callable[[s.Expr, Context], T], default: D) -> T | D:
        """An argument by its own reader."""
        return self.args.read(name, lambda e: reader(e, self.context), default)

    def whole(self, name: str, high: int, default: int, low: int = 1) -> int:
        """A whole number."""
        return self.args.read(name, lambda e: whole(e, name, high, low, self.context.scope), default)

    def tokens(self, name: str, default: int, low: int = 1) -> int:
        """A count of tokens."""
        return self.args.read(name, lambda e: self._tokens(e, name, low), default)

    def _tokens(self, expr: s.Expr, name: str, low: int) -> int:
        return whole(expr, name, limits.CONTEXT, low, self.context.scope, prefix_of_tokens=True)

    def maybe_tokens(self, name: str) -> int | None:
        """A count of tokens, or `none`, which is the default."""
        return self.args.read(name, lambda e: None if is_none(e) else self._tokens(e, name, 1), None)

    def maybe_whole(self, name: str, high: int) -> int | None:
        """A whole number, or `none`, which is the default."""
        scope = self.context.scope
        return self.args.read(name, lambda e: None if is_none(e) else whole(e, name, high, 1, scope), None)

    def real(
        self,
        name: str,
        default: float,
        low: float = 0.0,
        high: float = 1e30,
        low_open: bool = True,
        high_open: bool = False,
    ) -> float:
        """A number; without bounds a positive one."""
        scope = self.context.scope
        return self.args.read(name, lambda e: real(e, name, low, high, scope, low_open, high_open), default)

    def maybe_real(self, name: str) -> float | None:
        """A positive number, or `none`, which is the default."""
        scope = self.context.scope
        return self.args.read(name, lambda e: None if is_none(e) else real(e, name, scope=scope), None)

    def flag(self, name: str, default: bool = False) -> bool:
        """`true` or `false`."""
        return self.args.read(name, lambda e: flag(e, name), default)

    def word(self, name: str, words: Sequence[W], default: W) -> W:
        """One of a few words."""
        return self.args.read(name, lambda e: words[words.index(word(e, name, tuple(words)))], default)

    def report(self, kind: Kind, names: Sequence[str], label: str, advice: str = "") -> None:
        """Report a rule between arguments, at the first of `names` that was given, if all were sound."""
        if self.args.sound(*names):
            self.args.bag.add(kind.at(self.args.span_of(*names), label, advice=advice))
