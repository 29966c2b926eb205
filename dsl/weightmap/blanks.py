"""Tensors that files may hold for experts without parameters.

layers[i].experts.identity[e].{gate,up} = "h.{i}.mlp.experts.{e}.{}_proj.weight"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.limits import TENSORS
from moec.dsl.parameters import blank_parameters
from moec.dsl.quantities import group as grouped
from moec.dsl.source import Span

from .groups import Mapped, layer_name, shape_of_name
from .rules import NUMBER, Rule

_IDENTITY = f".identity.{NUMBER}."


def map_blanks(
    model: m.ModelSpec, rules: Mapping[str, tuple[Rule, int]], block: Span, bag: DiagnosticBag
) -> tuple[tuple[Mapped, m.Blanks], ...]:
    """The tensors that rules for `identity[e]` name, by layer and parameter; a rule is not needed."""
    formed = {id(rule): rule for shape, (rule, _) in rules.items() if rule.forms and _IDENTITY in shape}
    for rule in formed.values():
        bag.add(c.BAD_RULE.at(rule.span, "an identity expert has no parameters to put together"))
    found = () if formed else tuple(_found(model, rules))
    total = sum(blank.group.experts or 0 for _, blank in found)
    if total > TENSORS:
        label = f"the weight map would name {grouped(total)} tensors of identity experts; "
        bag.add(c.TOO_LARGE.at(block, f"{label}at most {grouped(TENSORS)}"))
        return ()
    return found


def _found(model: m.ModelSpec, rules: Mapping[str, tuple[Rule, int]]) -> Iterator[tuple[Mapped, m.Blanks]]:
    for index, layer in enumerate(model.layers):
        for parameter, first in blank_parameters(layer, model.width):
            shape = shape_of_name(index, parameter)
            if shape in rules:
                rule, _ = rules[shape]
                names = (layer_name(index, parameter),)
                group = m.TensorGroup(rule.tensor((index, "{}")), names, (), parameter.experts, None, first)
                yield Mapped(group, rule), m.Blanks(group, parameter.shape)
