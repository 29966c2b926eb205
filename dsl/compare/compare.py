"""Everything that is different between two specifications."""

from __future__ import annotations

from dataclasses import dataclass

from moec.dsl import parameters
from moec.dsl import spec as m
from moec.dsl.families import Family

from .values import ValueChange, value_changes
from .weights import MapChange, map_change, parameter_changes


@dataclass(frozen=True)
class Differences:
    """What differs. `counts`: (total, active) parameters before and after."""

    values: tuple[ValueChange, ...]
    removed: tuple[Family, ...]
    added: tuple[Family, ...]
    weight_map: MapChange | None
    counts: tuple[tuple[int, int], tuple[int, int]]

    def __bool__(self) -> bool:
        """Whether there is a difference."""
        return bool(self.values or self.removed or self.added or self.weight_map)


def compare(before: m.Spec, after: m.Spec) -> Differences:
    """What is different in `after`."""
    removed, added = parameter_changes(before.model, after.model)
    return Differences(
        value_changes(before, after),
        removed,
        added,
        map_change(before.checkpoint, after.checkpoint),
        (parameters.count(before.model), parameters.count(after.model)),
    )
