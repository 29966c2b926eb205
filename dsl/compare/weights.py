"""What differs in parameters and in the weight map."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from moec.dsl import spec as m
from moec.dsl.families import Family, families


@dataclass(frozen=True)
class MapChange:
    """How two weight maps differ, in numbers of tensors."""

    before: int
    after: int
    only_before: int
    only_after: int
    made_differently: int  # of the same name, from other parameters or in another form
    config: tuple[str, ...]  # keys of config.json whose entries differ
    passed_over: bool  # what is ignored, or held for experts without parameters, differs


def parameter_changes(
    before: m.ModelSpec, after: m.ModelSpec
) -> tuple[tuple[Family, ...], tuple[Family, ...]]:
    """The parameters that only the one or the other has, by name, shape, initialisation and layer."""
    old, new = families(before), families(after)
    return tuple(_left(old, new)), tuple(_left(new, old))


def _left(some: Iterable[Family], others: Iterable[Family]) -> Iterator[Family]:
    """What is left of families without the layers in which the others have the same."""
    present: dict[tuple[object, ...], set[int]] = {}
    for other in others:
        present.setdefault(_key(other), set()).update(other.layers)
    for family in some:
        same = present.get(_key(family))
        left = tuple(layer for layer in family.layers if same is None or layer not in same)
        if left or same is None:
            yield Family(family.path, family.parameter, left)


def _key(family: Family) -> tuple[object, ...]:
    one = family.parameter
    return family.path, one.shape, one.experts, one.init, one.trained, one.tied


def map_change(before: m.Checkpoint | None, after: m.Checkpoint | None) -> MapChange | None:
    """How the maps differ; None where they mean the same, in whatever order they are written."""
    old, new = _tensors(before), _tensors(after)
    common = old.keys() & new.keys()
    change = MapChange(
        before=len(old),
        after=len(new),
        only_before=len(old) - len(common),
        only_after=len(new) - len(common),
        made_differently=sum(old[name] != new[name] for name in common),
        config=tuple(_config_keys(before, after)),
        passed_over=_passed_over(before) != _passed_over(after),
    )
    same = MapChange(len(old), len(old), 0, 0, 0, (), False)
    return None if change == same and (before is None) == (after is None) else change


def _tensors(checkpoint: m.Checkpoint | None) -> dict[str, m.FileTensor]:
    return {tensor.name: tensor for tensor in checkpoint.tensors} if checkpoint is not None else {}


def _config_keys(before: m.Checkpoint | None, after: m.Checkpoint | None) -> Iterator[str]:
    old, new = _entries(before), _entries(after)
    yield from (key for key in dict.fromkeys((*old, *new)) if old.get(key) != new.get(key))


def _entries(checkpoint: m.Checkpoint | None) -> dict[str, m.ConfigEntry]:
    return {entry.keys[0]: entry for entry in checkpoint.config} if checkpoint is not None else {}


def _passed_over(checkpoint: m.Checkpoint | None) -> object:
    if checkpoint is None:
        return frozenset(), frozenset(), frozenset()
    return frozenset(checkpoint.ignored), frozenset(checkpoint.config_ignored), frozenset(checkpoint.blanks)
