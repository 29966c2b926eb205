"""One layer as data and as text: what `moec show --layer` prints. Equal layers differ in names only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.families import ranges
from moec.dsl.format import format_expression, format_file
from moec.dsl.parameters import Parameter, layer_parameters
from moec.dsl.written import NOWHERE, equation_text, norm_name, setting, written

from .values import NamedValue, equation_values, shape_text


@dataclass(frozen=True)
class LayerView:
    """A layer with all that follows from it."""

    model: m.ModelSpec
    index: int

    @property
    def layer(self) -> m.Layer:
        """The layer itself."""
        return self.model.layers[self.index]

    @property
    def same(self) -> tuple[int, ...]:
        """All layers that are equal to it, itself included."""
        return tuple(i for i, layer in enumerate(self.model.layers) if layer is self.layer)

    @property
    def components(self) -> dict[str, m.Component]:
        """The components it calls, by the names of their bindings."""
        found: dict[str, m.Component] = {}
        for call in self.layer.calls():
            norm = isinstance(call.component, m.RmsNorm | m.LayerNorm)
            found.setdefault(norm_name(call) if norm else call.path, call.component)
        return found

    @property
    def values(self) -> list[tuple[str, tuple[NamedValue, ...]]]:
        """Its equations as text, and the values along each."""
        width = self.model.width
        return [(equation_text(x), tuple(equation_values(x, width))) for x in self.layer.equations]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Its parameters, those of experts once."""
        return layer_parameters(self.layer, self.model.width)

    @property
    def counts(self) -> tuple[int, int]:
        """(total, active) parameters of this layer."""
        total = sum(prod(p.stored_shape) for p in self.parameters)
        return total, sum(prod(p.shape) * (p.active or 1) for p in self.parameters)

    def name(self, parameter: Parameter) -> str:
        """The full name; `{e}` stands for an expert."""
        return f"layers.{self.index}.{parameter.path.replace('{}', '{e}')}"


def layer_view(model: m.ModelSpec, index: int) -> LayerView:
    """A layer, counted from 0 and below the number of layers."""
    assert 0 <= index < len(model.layers)
    return LayerView(model, index)


# --- text ---


def text(view: LayerView) -> str:
    """A layer for a reader."""
    parts = [_head(view), _equations(view), _components(view), _values(view), _parameters(view)]
    return "\n\n".join("\n".join(part) for part in parts) + "\n"


def _head(view: LayerView) -> Iterator[str]:
    same, layers = view.same, len(view.model.layers)
    others = "" if len(same) == 1 else f", the same as all of layers {ranges(same)}"
    yield f"layer {view.index} of {layers} of {view.model.name}{others}"


def _equations(view: LayerView) -> Iterator[str]:
    return (f"  {equation_text(equation)}" for equation in view.layer.equations)


def _components(view: LayerView) -> Iterator[str]:
    bindings = tuple(setting(name, written(component)) for name, component in view.components.items())
    yield from (f"  {line}" for line in format_file(s.File(bindings, NOWHERE)).splitlines())


def _values(view: LayerView) -> Iterator[str]:
    yield "values (T tokens, S keys, R rows of tokens sent to experts)"
    rows = [
        (value.name, shape_text(value.shape), value.what) for _, values in view.values for value in values
    ]
    yield from _table(rows)


def _parameters(view: LayerView) -> Iterator[str]:
    total, active = view.counts
    yield f"parameters: {total:,}, active per token {active:,}"
    yield from _table([(view.name(p), shape_text(p.shape), _what(p)) for p in view.parameters])


def _what(parameter: Parameter) -> str:
    size = prod(parameter.shape)
    many = f"{parameter.experts} of {size:,}" if parameter.experts is not None else f"{size:,}"
    return many if parameter.trained else f"{many}, not trained"


def _table(rows: Sequence[tuple[str, str, str]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(2)] if rows else []
    for name, shape, what in rows:
        yield f"  {name:<{widths[0]}}  {shape:<{widths[1]}}  {what}".rstrip()


# --- plain data ---


def data(view: LayerView) -> dict[str, object]:
    """A layer as plain data, for JSON."""
    total, active = view.counts
    return {
        "model": view.model.name,
        "layer": view.index,
        "same": list(view.same),
        "equations": [
            {"text": equation, "values": [_value_data(value) for value in values]}
            for equation, values in view.values
        ],
        "components": {name: format_expression(written(x)) for name, x in view.components.items()},
        "parameters": [_parameter_data(view, parameter) for parameter in view.parameters],
        "total": total,
        "active": active,
    }


def _value_data(value: NamedValue) -> dict[str, object]:
    return {"name": value.name, "shape": list(value.shape), "what": value.what}


def _parameter_data(view: LayerView, parameter: Parameter) -> dict[str, object]:
    return {
        "name": view.name(parameter),
        "shape": list(parameter.shape),
        "experts": parameter.experts,
        "active": parameter.active,
        "trained": parameter.trained,
    }
