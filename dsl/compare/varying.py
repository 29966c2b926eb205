"""What is not the same in all layers of one model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moec.dsl import spec as m

from .values import IN_PARTS, layer_facts


@dataclass(frozen=True)
class Varying:
    """A value that is another in some layers: what it is, and in which layers.

    Layers that lack it, such as those without the component it belongs to, are in no case.
    """

    path: str
    cases: tuple[tuple[str, tuple[int, ...]], ...]


def kinds(model: m.ModelSpec) -> dict[m.Layer, tuple[int, ...]]:
    """The different layers, and where each stands."""
    found: dict[int, list[int]] = {}
    for index, layer in enumerate(model.layers):
        found.setdefault(id(layer), []).append(index)
    return {model.layers[places[0]]: tuple(places) for places in found.values()}


def varying(model: m.ModelSpec) -> tuple[Varying, ...]:
    """Everything that varies, in the order of a layer.

    What some layers lack is told by the equation or the value around it, which is another in these layers;
    inside of values that are different calls, nothing is compared.
    """
    layers = kinds(model)
    if len(layers) == 1:
        return ()
    found: dict[str, dict[str, list[int]]] = {}
    for layer, places in layers.items():
        for path, fact in layer_facts(layer).items():
            found.setdefault(path, {}).setdefault(fact.value, []).extend(places)
    different = [path for path, cases in found.items() if len(cases) > 1]
    hiding = {path for path in different if not path.endswith(IN_PARTS)}
    return tuple(
        Varying(path, tuple((value, tuple(sorted(places))) for value, places in found[path].items()))
        for path in different
        if hiding.isdisjoint(_above(path))
    )


def _above(path: str) -> Iterator[str]:
    """The paths that lead to this one."""
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
