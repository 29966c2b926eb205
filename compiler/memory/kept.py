"""What regions keep for their backward: values by name, with their bytes at balanced routing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import fx

from moec.compiler.build.statistics import CARRIED_DIFFERENTIABLE
from moec.compiler.differentiate.bind import DifferentiatedRegion
from moec.compiler.graph import component

from .liveness import computed_bytes
from .sizes import Sizes, tensors

_CHAIN = frozenset(("x", "choices", *CARRIED_DIFFERENTIABLE))


@dataclass(frozen=True)
class Value:
    """A value that a region gives or takes: dtype and shape as text, and the memory that it holds.

    `memory`: an identity of each piece, which values that are views of one another share.
    """

    name: str
    component: str
    type: str
    memory: dict[int, int]

    @property
    def bytes(self) -> int:
        """All pieces together."""
        return sum(self.memory.values())


@dataclass(frozen=True)
class Footprint:
    """The values of one kind of region that outlive its forward.

    `results` are all results of forward, outputs and then what is saved, in order; `inputs` are what it was
    given by the region before it and backward takes again.
    """

    results: tuple[Value, ...]
    saved: tuple[Value, ...]
    inputs: tuple[Value, ...]
    computed_bytes: dict[str, int]  # the most that `forward` and `backward` each compute and hold at a time

    @property
    def kept_bytes(self) -> int:
        """The memory of all that waits for backward."""
        kept = (*self.saved, *self.inputs)
        return sum({key: size for value in kept for key, size in value.memory.items()}.values())


def of_chain(name: str) -> bool:
    """Whether an input of a region comes from the region before it: the batch is there in any case."""
    return name in _CHAIN


def footprint(region: DifferentiatedRegion, sizes: Sizes) -> Footprint:
    """Read off the forward graph of a region."""
    sizes = sizes.of(region.forward)
    (returned,) = region.forward.output_node().args
    assert isinstance(returned, tuple)
    names = (*region.outputs, *region.saved)
    results = tuple(_value(n, node, sizes) for n, node in zip(names, returned, strict=True))
    placeholders = [node for node in region.forward.nodes if node.op == "placeholder"]
    given = dict(zip(region.inputs, placeholders[len(region.buffers) :], strict=True))
    return Footprint(
        results=results,
        saved=results[len(region.outputs) :],
        inputs=tuple(_value(name, given[name], sizes) for name in region.backward_inputs if of_chain(name)),
        computed_bytes={
            "forward": computed_bytes(region.forward, sizes),
            "backward": computed_bytes(region.backward, sizes),
        },
    )


def bytes_of_results(kinds: dict[str, Footprint]) -> Callable[[fx.Node], int]:
    """Of an element of what a region's forward gave, in the graph of a schedule: the memory that it holds."""

    def size(node: fx.Node) -> int:
        call, index = node.args
        assert isinstance(call, fx.Node)
        assert isinstance(index, int)
        kind = str(call.args[0]).removesuffix(".forward")
        return kinds[kind].results[index].bytes

    return size


def _value(name: str, node: Any, sizes: Sizes) -> Value:
    if not isinstance(node, fx.Node):
        return Value(name, "", "number", {})
    types = [f"{str(x.dtype).removeprefix('torch.')} {sizes.shape(x)}" for x in tensors(node)]
    return Value(name, component(node), ", ".join(types) or "number", sizes.pieces(node))
