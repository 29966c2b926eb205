"""The weight map: where the parameters of a model are in a published checkpoint.

Most tensors of a checkpoint are one parameter as it is. Some are made of several, by forms:

    stack       `count` elements of one shape on a new first dim
    concat      `count` elements after one another along the first dim
    interleave  the rows of `count` elements of one shape in turns
    transpose   the last two dims swapped
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .codec import FormatError

MAX_FORMS = 16
MAX_COUNT = 1 << 24  # of the elements of a form, and of the parameters of a tensor


@dataclass(frozen=True)
class Form:
    """One step of how a tensor is made of parameters, over `count` elements."""

    kind: Literal["stack", "concat", "interleave", "transpose"]
    count: int


@dataclass(frozen=True)
class FusedTensor:
    """A tensor made of `parameters` by `forms`, the outermost first; the innermost form's elements are
    neighbours among the parameters."""

    name: str
    parameters: tuple[str, ...]
    forms: tuple[Form, ...]


@dataclass(frozen=True)
class WeightMap:
    """`tensors` has the names in the checkpoint, by ours, of what is there as it is; `fused` the rest.

    `ignored` are patterns of tensors to pass over, in which `{}` is a number.
    """

    tensors: dict[str, str]
    fused: tuple[FusedTensor, ...]
    ignored: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Whether there is no map."""
        return not self.tensors and not self.fused


def check_weight_map(found: WeightMap, where: str) -> None:
    """Every parameter and every tensor is there once, and forms take as many elements as there are.

    Raises FormatError.
    """
    for tensor in found.fused:
        _check_fused(tensor, f"{where}.fused")
    _check_distinct([*found.tensors.values(), *(t.name for t in found.fused)], f"{where}: a tensor")
    parameters = (name for tensor in found.fused for name in tensor.parameters)
    _check_distinct([*found.tensors, *parameters], f"{where}: a parameter")


def _check_fused(tensor: FusedTensor, where: str) -> None:
    if not 1 <= len(tensor.forms) <= MAX_FORMS:
        raise FormatError(
            f"{where}: {tensor.name[:60]!r} has {len(tensor.forms)} forms, not 1 to {MAX_FORMS}"
        )
    elements = 1
    for form in tensor.forms:
        if not 1 <= form.count <= MAX_COUNT or (form.kind == "transpose" and form.count != 1):
            raise FormatError(f"{where}: {tensor.name[:60]!r} has {form.kind} of {form.count}")
        elements = min(elements * form.count, MAX_COUNT + 1)
    if elements != len(tensor.parameters):
        raise FormatError(
            f"{where}: {tensor.name[:60]!r} is made of {len(tensor.parameters)} parameters, "
            "and its forms take another number"
        )


def _check_distinct(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise FormatError(f"{what} stands twice: {name[:60]!r}")
        seen.add(name)
