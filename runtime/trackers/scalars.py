"""The metrics of a step as numbers by name.

`loss`, `router_entropy/layers.0.experts`, `bytes_sent/shard/all_gather`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from moec.runtime.record.metrics import StepMetrics

_LEFT_OUT = ("step", "expert_load", "validation_loss")
"""The load of each expert, whose imbalance is among the numbers; losses of which trackers are told apart."""


def scalars(metrics: StepMetrics) -> dict[str, float]:
    """Every number of a step but its own and the loads of single experts; names are joined by slashes."""
    found: dict[str, float] = {}
    for entry in fields(metrics):
        if entry.name not in _LEFT_OUT:
            found |= dict(_flat(entry.name, getattr(metrics, entry.name)))
    return found


def _flat(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flat(f"{name}/{key}", part)
    elif isinstance(value, int | float):
        yield name, float(value)
