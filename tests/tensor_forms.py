"""Tensors made of parameters in plain torch, the reference for what files hold, and random such tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from hypothesis import strategies as st
from torch import Tensor

from moec.runtime.abi.weight_map import Form, FusedTensor, WeightMap

Shape = tuple[int, ...]


def made(forms: Sequence[Form], parts: Sequence[Tensor]) -> Tensor:
    """The tensor of a file, by the meaning of the forms."""
    if not forms:
        (part,) = parts
        return part
    form, share = forms[0], len(parts) // forms[0].count
    elements = [made(forms[1:], parts[i : i + share]) for i in range(0, len(parts), share)]
    match form.kind:
        case "stack":
            return torch.stack(elements)
        case "concat":
            return torch.cat(elements)
        case "interleave":
            return torch.stack(elements, 1).flatten(0, 1)
        case "transpose":
            return elements[0].mT


@dataclass(frozen=True)
class Chain:
    """Forms, outermost first, and the shapes of parameters that they can take."""

    forms: tuple[Form, ...]
    shapes: tuple[Shape, ...]

    def parameters(self) -> dict[str, Tensor]:
        """Parameters with values that are all different."""
        values = torch.arange(sum(map(prod, self.shapes)), dtype=torch.float64)
        parts = values.split([prod(shape) for shape in self.shapes])
        return {f"p.{i}": x.view(shape) for i, (x, shape) in enumerate(zip(parts, self.shapes, strict=True))}

    def map(self) -> WeightMap:
        """The tensor `t`, made of them."""
        return WeightMap({}, (FusedTensor("t", tuple(self.parameters()), self.forms),), ())


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    """Any forms that fit together: up to four, of parameters of one to three dims."""
    leaf = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    forms: list[Form] = []
    dims = len(leaf)
    for kind in draw(
        st.lists(st.sampled_from(("stack", "concat", "interleave", "transpose")), min_size=1, max_size=4)
    ):
        if kind == "transpose" and dims < 2:
            continue
        forms.insert(0, Form(kind, 1 if kind == "transpose" else draw(st.integers(1, 3))))
        dims += kind == "stack"
    sizes = [draw(st.lists(st.integers(1, 4), min_size=f.count, max_size=f.count)) for f in forms]
    return Chain(tuple(forms), tuple(_shapes(forms, sizes, leaf)))


def _shapes(forms: list[Form], sizes: list[list[int]], leaf: Shape) -> list[Shape]:
    """Shapes that fit: elements of a concatenation differ in the dim that becomes the first."""
    if not forms:
        return [leaf]
    rest = forms[1:]
    if forms[0].kind != "concat" or any(form.kind == "stack" for form in rest):
        return _shapes(rest, sizes[1:], leaf) * forms[0].count
    swapped = len(leaf) == 2 and sum(form.kind == "transpose" for form in rest) % 2
    dim = 1 if swapped else 0
    leaves = [(*leaf[:dim], size, *leaf[dim + 1 :]) for size in sizes[0]]
    return [shape for one in leaves for shape in _shapes(rest, sizes[1:], one)]
