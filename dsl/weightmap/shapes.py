"""The shape of a tensor that is made of parameters, and whether they fit together."""

from __future__ import annotations

from collections.abc import Sequence

from moec.dsl.spec import Form

Shape = tuple[int, ...]


class Misfit(Exception):  # noqa: N818  (a user's mistake)
    """Elements that a form cannot put together. The message says which."""


def combined(forms: Sequence[Form], parts: Sequence[Shape]) -> Shape:
    """The shape of `parts` under `forms`, the outermost first. Raises Misfit."""
    if not forms:
        (part,) = parts
        return part
    form, share = forms[0], len(parts) // forms[0].count
    elements = [combined(forms[1:], parts[i : i + share]) for i in range(0, len(parts), share)]
    first = elements[0]
    match form.kind:
        case "transpose":
            if len(first) < 2:
                raise Misfit(f"`transpose` of {_shown(first)}: it has no two dims")
            return (*first[:-2], first[-1], first[-2])
        case "stack":
            _same(form, elements)
            return (len(elements), *first)
        case "interleave":
            _same(form, elements)
            return (len(elements) * first[0], *first[1:])
    _same(form, [(0, *element[1:]) for element in elements], elements)
    return (sum(element[0] for element in elements), *first[1:])


def _same(form: Form, compared: Sequence[Shape], elements: Sequence[Shape] | None = None) -> None:
    shown = elements or compared
    other = next((i for i, shape in enumerate(compared) if shape != compared[0]), None)
    if other is not None:
        raise Misfit(f"`{form.kind}` of {_shown(shown[0])} and {_shown(shown[other])}")


def _shown(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
