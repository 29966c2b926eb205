"""The parameters of a model, those that differ only in layer and expert taken together.

    layers[i].experts.expert[e].gate   (768, 2048)   of layers 0..48, 128 experts each

What people read of a model of 20 000 tensors are a dozen such lines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import prod

from moec.dsl.parameters import Parameter, embed_parameters, head_parameters, layer_parameters
from moec.dsl.spec import ModelSpec


@dataclass(frozen=True)
class Family:
    """Parameters of one name but for their indices, and of one shape."""

    path: str  # as the left side of a weight map writes it: `layers[i].attention.q`
    parameter: Parameter  # one of them
    layers: tuple[int, ...] = ()  # empty outside of layers

    @property
    def shape(self) -> tuple[int, ...]:
        """Of each."""
        return self.parameter.shape

    @property
    def tensors(self) -> int:
        """How many there are."""
        return max(1, len(self.layers)) * (self.parameter.experts or 1)

    @property
    def elements(self) -> int:
        """Of all of them."""
        return self.tensors * prod(self.shape)

    def names(self) -> Iterator[str]:
        """Full names, layer by layer."""
        for region in [f"layers.{layer}" for layer in self.layers] or [""]:
            yield from self.parameter.names(region)


def families(model: ModelSpec) -> list[Family]:
    """All parameters of a model, in the order of the first of each family."""
    found: dict[tuple[str, tuple[int, ...], int | None], tuple[Parameter, list[int]]] = {}
    for layer, parameter in _regions(model):
        path = left_side(parameter, layer is not None)
        _, layers = found.setdefault((path, parameter.shape, parameter.experts), (parameter, []))
        layers += [] if layer is None else [layer]
    return [Family(path, parameter, tuple(layers)) for (path, _, _), (parameter, layers) in found.items()]


def _regions(model: ModelSpec) -> Iterator[tuple[int | None, Parameter]]:
    yield from ((None, parameter) for parameter in embed_parameters(model))
    known: dict[int, tuple[Parameter, ...]] = {}
    for index, layer in enumerate(model.layers):
        if id(layer) not in known:
            known[id(layer)] = layer_parameters(layer, model.width)
        yield from ((index, parameter) for parameter in known[id(layer)])
    yield from ((None, parameter) for parameter in head_parameters(model))


def left_side(parameter: Parameter, in_layer: bool) -> str:
    """Its name with `[i]` for the layer and `[e]` for the expert."""
    path = parameter.path.replace(".{}", "[e]")
    return f"layers[i].{path}" if in_layer else path


def ranges(layers: Sequence[int]) -> str:
    """Layers as patterns write them: `3`, `0..4` (half open), `0..4, 7`, `every(2) up to 11`."""
    runs = list(_runs(layers))
    if len(runs) > 2 and _is_even(layers):
        step, first = layers[1] - layers[0], layers[0]
        offset = "" if first == step - 1 else f", offset: {first}"
        return f"every({step}{offset}) up to {layers[-1]}"
    return ", ".join(f"{a}" if b == a + 1 else f"{a}..{b}" for a, b in runs)


def _runs(layers: Iterable[int]) -> Iterator[tuple[int, int]]:
    for _, run in groupby(enumerate(layers), key=lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        yield numbers[0], numbers[-1] + 1


def _is_even(layers: Sequence[int]) -> bool:
    steps = {b - a for a, b in pairwise(layers)}
    return len(steps) == 1


def shape_text(shape: Sequence[int]) -> str:
    """`(2048,)`, `(768, 2048)`."""
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
