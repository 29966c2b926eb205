"""What differs in values: of the whole model, of its layers, of where and how it runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.format import format_expression
from moec.dsl.written import (
    Fact,
    embed_equation,
    equation_text,
    flat,
    head_equation,
    norm_name,
    number,
    settings,
    written,
)

Facts = Mapping[str, Fact]
IN_PARTS = (".router", ".balance", ".experts", ".shared")  # their parts stay comparable one by one


@dataclass(frozen=True)
class ValueChange:
    """A value that differs; None where one side has none. `layers`: where, None: in all."""

    path: str
    before: str | None
    after: str | None
    layers: tuple[int, ...] | None = None


def value_changes(before: m.Spec, after: m.Spec) -> tuple[ValueChange, ...]:
    """Every value that differs, in the order of a text: the model, its layers, the other blocks."""
    whole = tuple(_changes(_facts(model_facts(before.model)), _facts(model_facts(after.model))))
    layers = (change for change in _layers(before.model, after.model) if change not in whole)
    return (*whole, *layers, *_changes(_facts(settings(before)), _facts(settings(after))))


def _facts(found: Iterable[Fact]) -> Facts:
    return {fact.path: fact for fact in found}


def model_facts(model: m.ModelSpec) -> Iterator[Fact]:
    """The values of a model, but for those of its layers, by path."""
    for path, value in (
        ("model", model.name),
        ("vocab", number(model.vocab)),
        ("width", number(model.width)),
        ("context", number(model.context)),
        ("init.std", number(model.init_std)),
        ("layers", number(len(model.layers))),
    ):
        yield Fact(path, value, value)
    yield _equation("x", embed_equation(model.embed))
    yield _equation("logits", head_equation(model.head))
    for call in m.calls(model.head.argument):
        yield from flat(_name(call), written(call.component))
    if model.embed.norm is not None:
        yield from flat(model.embed.norm.path.removeprefix("embed_"), written(model.embed.norm.component))


def _equation(name: str, value: s.Expr) -> Fact:
    text = format_expression(value)
    return Fact(name, text, text)


def _name(call: m.Call) -> str:
    return norm_name(call) if isinstance(call.component, m.RmsNorm | m.LayerNorm) else call.path


def _changes(before: Facts, after: Facts) -> Iterator[ValueChange]:
    """Where a value is there or not, or another construct, it is given whole, and nothing inside of it."""
    replaced: list[str] = []
    for path in dict.fromkeys((*before, *after)):
        old, new = before.get(path), after.get(path)
        if any(path.startswith(f"{above}.") for above in replaced) or _value(old) == _value(new):
            continue
        if old is None or new is None or _is_other(path, old, new):
            replaced.append(path)
            yield ValueChange(path, _whole(old), _whole(new))
        else:
            yield ValueChange(path, old.value, new.value)


def _value(fact: Fact | None) -> str | None:
    return fact.value if fact is not None else None


def _whole(fact: Fact | None) -> str | None:
    return fact.whole if fact is not None else None


def _is_other(path: str, old: Fact, new: Fact) -> bool:
    """Whether one of two values is a call that the other is not."""
    has_inside = old.whole != old.value or new.whole != new.value
    is_absent = "none" in (old.value, new.value)
    return has_inside and (is_absent or not path.endswith(IN_PARTS))


def _layers(before: m.ModelSpec, after: m.ModelSpec) -> Iterator[ValueChange]:
    """The differences of the layers that both have, equal ones together."""
    known: dict[tuple[int, int], tuple[ValueChange, ...]] = {}
    found: dict[ValueChange, list[int]] = {}
    for index, (one, other) in enumerate(zip(before.layers, after.layers, strict=False)):
        key = (id(one), id(other))
        if key not in known:
            known[key] = tuple(_changes(layer_facts(one), layer_facts(other)))
        for change in known[key]:
            found.setdefault(change, []).append(index)
    for change, layers in found.items():
        everywhere = len(layers) == min(len(before.layers), len(after.layers))
        yield change if everywhere else replace(change, layers=tuple(layers))
    yield from _more_layers(before, after)


def _more_layers(before: m.ModelSpec, after: m.ModelSpec) -> Iterator[ValueChange]:
    """The equations of layers that only one has, those of one kind together."""
    common = min(len(before.layers), len(after.layers))
    for model, is_after in ((before, False), (after, True)):
        found: dict[str, list[int]] = {}
        for index, layer in enumerate(model.layers[common:], common):
            found.setdefault("; ".join(map(equation_text, layer.equations)), []).append(index)
        for equations, layers in found.items():
            one, other = (None, equations) if is_after else (equations, None)
            yield ValueChange("equations", one, other, tuple(layers))


def layer_facts(layer: m.Layer) -> Facts:
    """The equations of a layer, and the values of all it calls, by path."""
    facts: dict[str, Fact] = {}
    for index, equation in enumerate(layer.equations, 1):
        text = equation_text(equation)
        facts[f"equation {index}"] = Fact(f"equation {index}", text, text)
    for name, component in _components(layer).items():
        facts |= _facts(flat(name, written(component)))
    return facts


def _components(layer: m.Layer) -> dict[str, m.Component]:
    """By the names of bindings; norms of one name that are not the same, by the names of their weights."""
    found: dict[str, set[m.Component]] = {}
    for call in layer.calls():
        found.setdefault(_name(call), set()).add(call.component)
    return {
        _name(call) if len(found[_name(call)]) == 1 else call.path: call.component for call in layer.calls()
    }
