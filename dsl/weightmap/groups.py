"""Rules and a model -> the tensors of a checkpoint, every parameter of the model in exactly one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import prod

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl.diagnostics import DiagnosticBag, Mistake, closest
from moec.dsl.limits import NAMED_IN_MESSAGES, TENSORS
from moec.dsl.parameters import Parameter, embed_parameters, head_parameters, layer_parameters
from moec.dsl.quantities import group as grouped
from moec.dsl.source import Span

from .rules import NUMBER, Rule, left_side
from .shapes import Misfit, combined

LAYER, EXPERT = 0, 1  # the indices of a left side, in their order


@dataclass(frozen=True)
class Mapped:
    """The tensors of a group, and the rule that names them."""

    group: m.TensorGroup
    rule: Rule


@dataclass
class _Members:
    """What the model has for one tensor, or one an expert: by layer, and place among the rule's shapes."""

    rule: Rule
    found: dict[tuple[int | None, int], Parameter] = field(default_factory=dict)


def map_tensors(
    model: m.ModelSpec, rules: Mapping[str, tuple[Rule, int]], block: Span, bag: DiagnosticBag
) -> tuple[Mapped, ...]:
    """The tensors of a checkpoint, in the order of the model's parameters."""
    regions = list(_regions(model))
    total = sum(p.experts or 1 for _, parameters in regions for _, p in parameters)
    if total > TENSORS:
        label = f"the weight map would name {grouped(total)} tensors; at most {grouped(TENSORS)}"
        raise Mistake(c.TOO_LARGE.at(block, label))
    members: dict[tuple[int, int | None], _Members] = {}
    unmapped: dict[str, str] = {}
    for layer, parameters in regions:
        for shape, parameter in parameters:
            if shape not in rules:
                unmapped.setdefault(shape, layer_name(layer, parameter, 0))
                continue
            rule, place = rules[shape]
            key = (id(rule), None if rule.takes(LAYER) else layer)
            members.setdefault(key, _Members(rule)).found[layer, place] = parameter
    _report_unmapped(unmapped, rules, block, bag)
    return tuple(_all_mapped(members, bag))


def _all_mapped(members: Mapping[tuple[int, int | None], _Members], bag: DiagnosticBag) -> Iterator[Mapped]:
    """What is wrong is reported for the first layer of a rule."""
    wrong: set[Span] = set()
    for (_, layer), found in members.items():
        if found.rule.span in wrong:
            continue
        mapped = bag.attempt(_mapped, found, layer)
        if mapped is None:
            wrong.add(found.rule.span)
        else:
            yield mapped


def _regions(model: m.ModelSpec) -> Iterator[tuple[int | None, list[tuple[str, Parameter]]]]:
    """Layer, or None, and its parameters with their shapes of name. Equal layers are looked at once."""
    yield None, [(shape_of_name(None, p), p) for p in embed_parameters(model)]
    seen: dict[int, list[tuple[str, Parameter]]] = {}
    for index, layer in enumerate(model.layers):
        if id(layer) not in seen:
            seen[id(layer)] = [(shape_of_name(index, p), p) for p in layer_parameters(layer, model.width)]
        yield index, seen[id(layer)]
    yield None, [(shape_of_name(None, p), p) for p in head_parameters(model)]


def shape_of_name(layer: int | None, parameter: Parameter) -> str:
    """The full name with `#` for numbers."""
    shape = parameter.path.replace("{}", NUMBER)
    return shape if layer is None else f"layers.{NUMBER}.{shape}"


def layer_name(layer: int | None, parameter: Parameter, expert: int | None = None) -> str:
    """The full name; without `expert`, `{}` stands for it."""
    path = parameter.path if expert is None else parameter.path.replace("{}", str(expert))
    return path if layer is None else f"layers.{layer}.{path}"


# --- one group ---


def _mapped(members: _Members, layer: int | None) -> Mapped:
    """Raises Mistake where members are missing or do not fit together."""
    rule = members.rule
    layers = list(dict.fromkeys(found for found, _ in members.found))
    _check_complete(members, layers)
    ordered = [members.found[key] for key in _order(rule, layers)]
    names = tuple(layer_name(key[0], members.found[key]) for key in _order(rule, layers))
    forms = tuple(
        m.Form(form.kind, _count(rule, i, len(layers), ordered[0])) for i, form in enumerate(rule.forms)
    )
    over = next((i for i, form in enumerate(rule.forms) if form.over == EXPERT), None)
    tensor = rule.tensor((layer, "{}"))
    group = m.TensorGroup(tensor, names, forms, ordered[0].experts, over)
    _check_shapes(group, ordered, rule)
    return Mapped(group, rule)


def _count(rule: Rule, place: int, layers: int, parameter: Parameter) -> int:
    form = rule.forms[place]
    if form.over is None:
        return form.alternatives
    return layers if form.over == LAYER else parameter.experts or 1


def _order(rule: Rule, layers: list[int | None]) -> Iterator[tuple[int | None, int]]:
    """(layer, place among the shapes) of the members of one expert, as the forms take them."""
    sizes = [
        1 if f.over == EXPERT else len(layers) if f.over == LAYER else f.alternatives for f in rule.forms
    ]
    for chosen in product(*map(range, sizes)):
        layer, place = layers[0], 0
        for form, number in zip(rule.forms, chosen, strict=True):
            if form.over == LAYER:
                layer = layers[number]
            elif form.over is None:
                place = place * form.alternatives + number
        yield layer, place


def _check_complete(members: _Members, layers: list[int | None]) -> None:
    rule = members.rule
    for layer, place in product(layers, range(len(rule.shapes))):
        if (layer, place) not in members.found:
            missing = rule.shapes[place].replace(NUMBER, str(layer), 1).replace(NUMBER, "0")
            there = next(layer_name(other, p, 0) for (other, _), p in members.found.items() if other == layer)
            label = f"`{there}` shares a tensor with `{missing}`, which the model does not have"
            raise Mistake(c.INCOMPLETE_TENSOR.at(rule.span, label))


def _check_shapes(group: m.TensorGroup, ordered: list[Parameter], rule: Rule) -> None:
    """One expert stands for all of them, which have the same shapes."""
    forms = [m.Form(f.kind) if i == group.over_experts else f for i, f in enumerate(group.forms)]
    assert prod(form.count for form in forms) == len(ordered)
    try:
        combined(forms, [parameter.shape for parameter in ordered])
    except Misfit as misfit:
        names = " and ".join(f"`{name.replace('{}', '0')}`" for name in group.parameters[:NAMED_IN_MESSAGES])
        raise Mistake(c.BAD_FORM.at(rule.span, f"{misfit}, in the tensor of {names}")) from None


def _report_unmapped(
    unmapped: dict[str, str], rules: Mapping[str, object], block: Span, bag: DiagnosticBag
) -> None:
    if not unmapped:
        return
    names = [f"`{name}`" for name in list(unmapped.values())[:NAMED_IN_MESSAGES]]
    more = f" and {len(unmapped) - len(names)} more" if len(unmapped) > len(names) else ""
    first = next(iter(unmapped))
    notes = (
        f"a rule for it starts with `{left_side(first)} = `",
        "`--set checkpoint=none` leaves the weight map out",
    )
    advice = closest(left_side(first), [left_side(shape) for shape in rules])
    bag.add(c.UNMAPPED.at(block, f"no tensor for {', '.join(names)}{more}", *notes, advice=advice))
