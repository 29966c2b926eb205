"""The weight map: rules over parameter names -> one tensor name per parameter, proved a bijection.

    layers[i].experts.expert[e].{gate,up} = "model.layers.{i}.mlp.experts.{e}.{}_proj.weight"

A rule covers all parameters of one *shape of name*, its numbers left out (`layers.#.experts.expert.#.gate`),
so a parameter finds its rule by one look-up, and a model of 50 000 tensors is mapped in well under a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl import parameters
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.diagnostics import DiagnosticBag, Mistake, closest, nearest
from moec.dsl.limits import DIAGNOSTICS_SHOWN, NAMED_IN_MESSAGES, TENSORS
from moec.dsl.quantities import group
from moec.dsl.source import Span

_HOLE = re.compile(r"\{([^{}]*)\}")
_NUMBER = "#"  # stands for an index in the shape of a name


@dataclass(frozen=True)
class Rule:
    """One rule for one alternative: the shape of name it covers, and the tensor name around its indices.

    `pieces` alternate with `order`: pieces[0] + index[order[0]] + pieces[1] + ...; `order` counts the indices
    of the left side from 0.
    """

    shape: str
    pieces: tuple[str, ...]
    order: tuple[int, ...]
    span: Span

    def tensor(self, indices: tuple[int, ...]) -> str:
        """The tensor name for these indices."""
        text = self.pieces[0]
        for position, piece in zip(self.order, self.pieces[1:], strict=True):
            text += f"{indices[position]}{piece}"
        return text


def read_rule(setting: s.Setting) -> list[Rule]:
    """The rules a statement stands for, one per alternative. Raises Mistake."""
    target = setting.targets[0]
    if setting.add or setting.fallback is not None or len(setting.targets) > 1 or target.quoted:
        raise Mistake(c.BAD_RULE.at(setting.span, 'expected `parameter = "tensor"`'))
    value = setting.value
    if isinstance(value, s.Invoke) and value.name in ("concat", "interleave", "stack", "transpose"):
        raise Mistake(c.NOT_YET.at(value.callee.span, f"`{value.name}` in a weight map is not supported yet"))
    if not isinstance(value, s.String):
        raise Mistake(
            c.BAD_RULE.at(value.span, f"expected the name of a tensor in quotes, found {s.describe(value)}")
        )
    return [_rule(steps, choice, target, value) for steps, choice in _alternatives(target)]


def _alternatives(target: s.Target) -> Iterator[tuple[tuple[s.Field | s.Index, ...], str | None]]:
    choices = [step for step in target.steps if isinstance(step, s.Choice)]
    if len(choices) > 1:
        raise Mistake(c.BAD_RULE.at(target.span, "a rule has at most one set of alternatives"))
    for name in choices[0].names if choices else (None,):
        yield tuple(s.Field(name or "") if isinstance(x, s.Choice) else x for x in target.steps), name


def _rule(
    steps: tuple[s.Field | s.Index, ...], choice: str | None, target: s.Target, value: s.String
) -> Rule:
    variables = [step.variable for step in steps if isinstance(step, s.Index)]
    if len(set(variables)) < len(variables):
        raise Mistake(c.BAD_RULE.at(target.span, "an index variable is used twice on the left"))
    shape = ".".join(_NUMBER if isinstance(step, s.Index) else step.name for step in steps)
    pieces, order = [""], []
    last = 0
    for hole in _HOLE.finditer(value.text):
        pieces[-1] += value.text[last : hole.start()]
        last = hole.end()
        if not hole[1]:
            pieces[-1] += _chosen(choice, value)
            continue
        if hole[1] not in variables:
            advice = nearest(hole[1], variables)
            label = f"`{{{hole[1]}}}` is no index of the left side"
            raise Mistake(c.BAD_RULE.at(value.span, label, advice=advice))
        order.append(variables.index(hole[1]))
        pieces.append("")
    pieces[-1] += value.text[last:]
    return Rule(shape, tuple(pieces), tuple(order), target.span)


def _chosen(choice: str | None, value: s.String) -> str:
    if choice is None:
        raise Mistake(c.BAD_RULE.at(value.span, "`{}` stands for an alternative, and the left side has none"))
    return choice


def index_rules(rules: list[Rule], bag: DiagnosticBag) -> dict[str, Rule]:
    """The rules by the shape they cover; two for one shape are a mistake."""
    by_shape: dict[str, Rule] = {}
    for rule in rules:
        if rule.shape in by_shape:
            bag.add(c.MAPPED_TWICE.at(rule.span, f"a second rule for `{_shown(rule.shape)}`"))
        by_shape.setdefault(rule.shape, rule)
    return by_shape


def _shown(shape: str) -> str:
    return shape.replace(f".{_NUMBER}", "[...]")


def map_tensors(
    model: m.ModelSpec, rules: dict[str, Rule], block: Span, bag: DiagnosticBag
) -> tuple[m.FileTensor, ...]:
    """The tensors of a checkpoint, in the order of the model's parameters."""
    total = _tensor_count(model)
    if total > TENSORS:
        label = f"the weight map would name {group(total)} tensors; at most {group(TENSORS)}"
        raise Mistake(c.TOO_LARGE.at(block, label))
    pairs: list[tuple[str, str]] = []
    unmapped: dict[str, str] = {}
    for region, parameter in parameters.model_parameters(model):
        shape = _shape_of(region, parameter.path)
        rule = rules.get(shape)
        if rule is None:
            unmapped.setdefault(shape, next(iter(parameter.names(region))))
        else:
            pairs += _pairs(region, parameter, rule)
    _report_unmapped(unmapped, rules, block, bag)
    _report_collisions(pairs, rules, bag)
    return tuple(m.FileTensor(tensor, (name,)) for name, tensor in pairs)


def _tensor_count(model: m.ModelSpec) -> int:
    counts = {id(layer): 0 for layer in model.layers}
    for layer in model.layers:
        if not counts[id(layer)]:
            counts[id(layer)] = sum(p.experts or 1 for p in parameters.layer_parameters(layer, model.width))
    return sum(counts[id(layer)] for layer in model.layers)


def _shape_of(region: str, path: str) -> str:
    shape = path.replace("{}", _NUMBER)
    return f"layers.{_NUMBER}.{shape}" if region else shape


def _pairs(region: str, parameter: parameters.Parameter, rule: Rule) -> Iterator[tuple[str, str]]:
    layer = (int(region.rpartition(".")[2]),) if region else ()
    for expert, name in enumerate(parameter.names(region)):
        yield name, rule.tensor((*layer, expert) if parameter.experts is not None else layer)


def _report_unmapped(
    unmapped: dict[str, str], rules: dict[str, Rule], block: Span, bag: DiagnosticBag
) -> None:
    if not unmapped:
        return
    names = [f"`{name}`" for name in list(unmapped.values())[:NAMED_IN_MESSAGES]]
    more = f" and {len(unmapped) - len(names)} more" if len(unmapped) > len(names) else ""
    first = next(iter(unmapped))
    notes = (
        f"a rule for it starts with `{_left_side(first)} = `",
        "`--set checkpoint=none` leaves the weight map out",
    )
    advice = closest(_left_side(first), [_left_side(shape) for shape in rules])
    bag.add(c.UNMAPPED.at(block, f"no tensor for {', '.join(names)}{more}", *notes, advice=advice))


def _left_side(shape: str) -> str:
    return shape.replace(f".{_NUMBER}", "[i]", 1).replace(f".{_NUMBER}", "[e]", 1)


def _report_collisions(pairs: list[tuple[str, str]], rules: dict[str, Rule], bag: DiagnosticBag) -> None:
    owner: dict[str, str] = {}
    told: set[str] = set()
    for name, tensor in pairs:
        other = owner.setdefault(tensor, name)
        if other == name:
            continue
        rule = rules[re.sub(r"\.[0-9]+", f".{_NUMBER}", name)]
        if rule.shape not in told and len(told) < NAMED_IN_MESSAGES:
            told.add(rule.shape)
            bag.add(c.TENSOR_TWICE.at(rule.span, f"`{other}` and `{name}` are both `{tensor[:80]}`"))


# --- which parameters a model could have, with other settings ---

_GQA = ("q", "k", "v", "o", "q_bias", "k_bias", "v_bias", "q_norm", "k_norm")
_FFN = ("gate", "up", "down")
_MOE = (
    "router",
    *(f"expert.{_NUMBER}.{name}" for name in _FFN),
    *(f"shared.{name}" for name in _FFN),
    "shared_gate",
)
_POSSIBLE = {"gqa": _GQA, "swiglu": _FFN, "moe": _MOE}


def possible_shapes(model: s.Block) -> set[str]:
    """Shapes of all names a parameter of these bindings can have, whichever of them the layers use."""
    kinds = {x.key: x.value.name for x in model.settings() if isinstance(x.value, s.Invoke)}
    norms = [name for name, kind in kinds.items() if kind == "rms_norm"]
    inner = list(norms)
    for name, kind in kinds.items():
        inner += [f"{name}.{parameter}" for parameter in _POSSIBLE.get(kind, ())]
        if kind in _POSSIBLE:
            inner += [f"{name}.{prefix}{norm}" for norm in norms for prefix in ("", "post_")]
    return {"embed", "logits", *inner, *(f"layers.{_NUMBER}.{name}" for name in inner)}


def report_impossible(rules: dict[str, Rule], possible: set[str], bag: DiagnosticBag) -> None:
    """A rule whose left side no setting can make match is a misspelling."""
    names = sorted(map(_left_side, possible))
    impossible = [rule for shape, rule in rules.items() if shape not in possible]
    for rule in impossible[:DIAGNOSTICS_SHOWN]:
        left = _left_side(rule.shape)
        label = f"the model can have no parameter `{left}`"
        bag.add(c.NO_SUCH_PARAMETER.at(rule.span, label, advice=closest(left, names)))
