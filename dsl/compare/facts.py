"""All that a specification says, value by value, for who has two of them at different times and no text."""

from __future__ import annotations

from collections.abc import Iterable

from moec.dsl import spec as m
from moec.dsl.written import settings

from .values import layer_facts, model_facts


def facts(spec: m.Spec) -> dict[str, str]:
    """Path -> value: of the model, of its layers (`layers 0-2, 5: attention.heads`), of how it is trained.

    Where and in what form it runs (`parallel`, `precision`, `memory`) is left out. Two specifications have
    the same facts where they mean the same model, trained the same way.
    """
    found = {fact.path: fact.value for fact in model_facts(spec.model)}
    kinds: list[tuple[m.Layer, list[int]]] = []
    for index, layer in enumerate(spec.model.layers):
        known = next((indices for kind, indices in kinds if kind == layer), None)
        if known is None:
            kinds.append((layer, [index]))
        else:
            known.append(index)
    for kind, indices in kinds:
        prefix = "" if len(kinds) == 1 else f"layers {_ranges(indices)}: "
        found |= {f"{prefix}{path}": fact.value for path, fact in layer_facts(kind).items()}
    return found | {f.path: f.value for f in settings(spec) if f.path.startswith("train.")}


def _ranges(indices: Iterable[int]) -> str:
    """`0-2, 5` of 0, 1, 2, 5."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
