"""The `parallel` block -> its spec, and what all blocks of settings share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.dispatch import read_dispatch
from moec.dsl.check.values import not_yet, whole
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.source import Span
from moec.dsl.vocabulary import BLOCKS, find

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True)
class Settings:
    """The settings of one block, by name; those of no such block are empty."""

    block: s.Block | None
    by_name: dict[str, s.Setting]
    bag: DiagnosticBag

    def has(self, name: str) -> bool:
        """Whether the setting was given."""
        return name in self.by_name

    def read(self, name: str, reader: Callable[[s.Expr], T], default: D) -> T | D:
        """The value of a setting, or the default where it is absent or its fault has been reported."""
        if name not in self.by_name:
            return default
        try:
            return reader(self.by_name[name].value)
        except Mistake as mistake:
            self.bag.add(mistake.diagnostic)
            return default

    def span(self, name: str) -> Span | None:
        """The place of a setting's value, else of the block."""
        if name in self.by_name:
            return self.by_name[name].value.span
        return self.block.kind.span if self.block else None

    def origin(self) -> m.Origin:
        """The place of the block."""
        return self.block.kind.span.origin() if self.block else m.NOWHERE


def settings_of(block: s.Block | None, kind: str, bag: DiagnosticBag) -> Settings:
    """Sort a block's statements; report what does not belong there."""
    by_name: dict[str, s.Setting] = {}
    if block is not None and block.header is not None:
        bag.add(c.MISPLACED.at(block.header.span, f"`{kind}` takes no name"))
    for statement in block.body if block else ():
        name = bag.attempt(_setting, statement, kind)
        if name is None or isinstance(statement, s.Block):
            continue
        if name in by_name:
            bag.add(c.DUPLICATE.at(statement.targets[0].span, f"`{name}` is given twice"))
        else:
            by_name[name] = statement
    return Settings(block, by_name, bag)


def _setting(statement: s.Statement, kind: str) -> str:
    if isinstance(statement, s.Block):
        raise Mistake(c.MISPLACED.at(statement.kind.span, f"`{kind}` holds settings, not blocks"))
    target = statement.targets[0]
    if statement.add or statement.fallback or len(statement.targets) > 1 or target.simple is None:
        raise Mistake(c.MISPLACED.at(statement.span, "a setting is `name = value`"))
    param = find(BLOCKS[kind], target.simple)
    if param is None:
        listed = [p.name for p in BLOCKS[kind] if p.supported]
        advice = nearest(target.simple, listed, [p.name for p in BLOCKS[kind]])
        label = f"`{kind}` has no setting `{target.simple}`"
        raise Mistake(c.UNKNOWN_SETTING.at(target.span, label, advice=advice))
    if not param.supported:
        raise not_yet(statement, f"`{kind}.{param.name}`")
    return param.name


def check_parallel(block: s.Block | None, bag: DiagnosticBag) -> m.ParallelSpec:
    """Degrees as written. What they must divide is the compiler's business: it knows the world."""
    found = settings_of(block, "parallel", bag)
    degrees = {name: found.read(name, partial(_degree, name), 1) for name in ("expert", "shard", "replicate")}
    rests = [name for name, degree in degrees.items() if degree is None]
    if len(rests) > 1:
        label = f"{' and '.join(f'`{name}`' for name in rests)} cannot all be what the others leave"
        bag.add(c.TWO_RESTS.at(found.span(rests[-1]), label))
    expert_shard = found.read("expert_shard", partial(_degree, "expert_shard"), None)
    return m.ParallelSpec(
        **degrees,
        expert_shard=expert_shard,
        dispatch=found.read("dispatch", lambda e: read_dispatch(e, bag), m.Dispatch()),
        replicate_given=found.has("replicate"),
        origin=found.origin(),
        origins=tuple((name, setting.value.span.origin()) for name, setting in found.by_name.items()),
    )


def _degree(name: str, expr: s.Expr) -> int | None:
    if isinstance(expr, s.Ref) and expr.text == "rest":
        return None
    return whole(expr, name, limits.DEGREE)
