"""A statement of a weight map -> rules: which names it covers, the tensor's name, and how that is made."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from moec.dsl import catalogue as c
from moec.dsl import syntax as s
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.limits import MAP_FORMS, MAP_RULES
from moec.dsl.source import Span

FormKind = Literal["stack", "concat", "interleave", "transpose"]
KINDS: tuple[FormKind, ...] = get_args(FormKind)
NUMBER = "#"  # stands for an index in the shape of a name

_HOLE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True)
class RuleForm:
    """A form of a rule: over an index of the left side, counted from 0, or over so many `alternatives`."""

    kind: FormKind
    over: int | None = None
    alternatives: int = 1


@dataclass(frozen=True)
class Rule:
    """One rule for one choice among the alternatives that no form takes.

    `shapes` are the shapes of name it covers, in the order in which the forms take them, the outermost form
    slowest. The tensor's name alternates `pieces` with the indices of the left side named by `order`:
    pieces[0] + index[order[0]] + pieces[1] + ...
    """

    shapes: tuple[str, ...]
    pieces: tuple[str, ...]
    order: tuple[int, ...]
    forms: tuple[RuleForm, ...]
    span: Span

    def tensor(self, indices: Sequence[object]) -> str:
        """The tensor's name for these indices."""
        text = self.pieces[0]
        for position, piece in zip(self.order, self.pieces[1:], strict=True):
            text += f"{indices[position]}{piece}"
        return text

    def takes(self, index: int) -> bool:
        """Whether a form runs over this index of the left side."""
        return any(form.over == index for form in self.forms)


def read_rule(setting: s.Setting) -> list[Rule]:
    """The rules a statement stands for. Raises Mistake."""
    target = setting.targets[0]
    if setting.add or setting.fallback is not None or len(setting.targets) > 1 or target.quoted:
        raise Mistake(c.BAD_RULE.at(setting.span, 'expected `parameter = "tensor"`'))
    variables = [step.variable for step in target.steps if isinstance(step, s.Index)]
    if len(set(variables)) < len(variables):
        raise Mistake(c.BAD_RULE.at(target.span, "an index variable is used twice on the left"))
    choices = [step.names for step in target.steps if isinstance(step, s.Choice)]
    _check_choices(choices, target)
    forms, name = _forms(setting.value, variables, choices)
    taken = sum(map(_takes_choice, forms))
    free, inner = choices[: len(choices) - taken], choices[len(choices) - taken :]
    return [_rule(target, chosen, inner, variables, forms, name) for chosen in product(*free)]


def _check_choices(choices: list[tuple[str, ...]], target: s.Target) -> None:
    total = 1
    for names in choices:
        total *= len(names)
        if len(set(names)) < len(names):
            raise Mistake(c.BAD_RULE.at(target.span, "an alternative stands twice in one set"))
    if total > MAP_RULES:
        raise Mistake(c.TOO_LARGE.at(target.span, f"a rule stands for at most {MAP_RULES} alternatives"))


def _takes_choice(form: RuleForm) -> bool:
    return form.kind in ("concat", "interleave") and form.over is None


# --- the right side ---


def _forms(
    value: s.Expr, variables: list[str], choices: list[tuple[str, ...]]
) -> tuple[tuple[RuleForm, ...], s.String]:
    """The forms, outermost first, and the string inside of them."""
    calls: list[s.Invoke] = []
    inner = value
    while isinstance(inner, s.Invoke):
        calls.append(inner)
        if len(calls) > MAP_FORMS:
            raise Mistake(c.TOO_LARGE.at(value.span, f"a tensor is made in at most {MAP_FORMS} steps"))
        inner = _argument(inner)
    if not isinstance(inner, s.String):
        label = f"expected the name of a tensor in quotes, found {s.describe(inner)}"
        raise Mistake(c.BAD_RULE.at(inner.span, label))
    left = list(choices)
    forms = [_form(call, variables, left) for call in reversed(calls)]
    _check_taken_once(calls, list(reversed(forms)), variables)
    return tuple(reversed(forms)), inner


def _argument(call: s.Invoke) -> s.Expr:
    """What a form is applied to: its last argument."""
    if call.name not in KINDS:
        advice = nearest(call.name, KINDS)
        raise Mistake(c.BAD_RULE.at(call.callee.span, f"there is no `{call.name}` of tensors", advice=advice))
    named = next((argument for argument in call.arguments if argument.name is not None), None)
    if named is not None:
        raise Mistake(c.BAD_RULE.at(named.span, f"`{call.name}` takes no named arguments"))
    most = 1 if call.name == "transpose" else 2
    if not 1 <= len(call.arguments) <= most:
        forms = {"transpose": "`transpose(R)`", "stack": "`stack(e, R)` or `stack(R)`"}
        usage = forms.get(call.name, f"`{call.name}(R)` or `{call.name}(e, R)`")
        raise Mistake(c.BAD_RULE.at(call.span, f"expected {usage}"))
    return call.arguments[-1].value


def _form(call: s.Invoke, variables: list[str], choices: list[tuple[str, ...]]) -> RuleForm:
    """One form. Without an index, `concat` and `interleave` take the last of `choices`, which leaves it."""
    kind = next(kind for kind in KINDS if kind == call.name)
    if len(call.arguments) == 2:
        index = call.arguments[0].value
        if not isinstance(index, s.Ref) or index.text not in variables:
            advice = nearest(index.text, variables) if isinstance(index, s.Ref) else ""
            label = f"{s.describe(index)} is no index of the left side"
            raise Mistake(c.BAD_RULE.at(index.span, label, advice=advice))
        return RuleForm(kind, variables.index(index.text))
    if kind in ("stack", "transpose"):
        return RuleForm(kind)
    if not choices:
        label = f"`{kind}` takes alternatives such as `{{gate,up}}`, and the left side has none left"
        raise Mistake(c.BAD_RULE.at(call.callee.span, label, advice=f"or an index: `{kind}(e, ...)`"))
    return RuleForm(kind, None, len(choices.pop()))


def _check_taken_once(calls: list[s.Invoke], forms: list[RuleForm], variables: list[str]) -> None:
    seen: set[int] = set()
    for call, form in zip(calls, forms, strict=True):
        if form.over in seen:
            label = f"a form runs over `{variables[form.over or 0]}` already"
            raise Mistake(c.BAD_RULE.at(call.arguments[0].span, label))
        seen |= set() if form.over is None else {form.over}


# --- one choice of the alternatives ---


def _rule(
    target: s.Target,
    chosen: tuple[str, ...],
    inner: list[tuple[str, ...]],
    variables: list[str],
    forms: tuple[RuleForm, ...],
    name: s.String,
) -> Rule:
    shapes = tuple(_shape(target, (*chosen, *rest)) for rest in product(*inner))
    pieces, order = _name(name, chosen, variables)
    both = next((i for i in order if any(form.over == i for form in forms)), None)
    if both is not None:
        label = f"`{variables[both]}` is in the name, and a form runs over it"
        raise Mistake(c.BAD_RULE.at(name.span, label))
    return Rule(shapes, pieces, order, forms, target.span)


def _shape(target: s.Target, chosen: Sequence[str]) -> str:
    rest = iter(chosen)
    return ".".join(_step(step, rest) for step in target.steps)


def _step(step: s.Field | s.Index | s.Choice, chosen: Iterator[str]) -> str:
    match step:
        case s.Field(name):
            return name
        case s.Index():
            return NUMBER
        case s.Choice():
            return next(chosen)


def _name(
    name: s.String, chosen: tuple[str, ...], variables: list[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Pieces and order: `{i}` is an index, every `{}` the next of the last alternatives chosen."""
    empty = sum(not hole[1] for hole in _HOLE.finditer(name.text))
    if empty > len(chosen):
        count = f"has only {len(chosen)} for it" if chosen else "has none for it"
        raise Mistake(
            c.BAD_RULE.at(name.span, f"`{{}}` stands for an alternative, and the left side {count}")
        )
    alternatives = iter(chosen[len(chosen) - empty :])
    pieces, order, last = [""], [], 0
    for hole in _HOLE.finditer(name.text):
        pieces[-1] += name.text[last : hole.start()]
        last = hole.end()
        if not hole[1]:
            pieces[-1] += next(alternatives)
            continue
        if hole[1] not in variables:
            label = f"`{{{hole[1]}}}` is no index of the left side"
            raise Mistake(c.BAD_RULE.at(name.span, label, advice=nearest(hole[1], variables)))
        order.append(variables.index(hole[1]))
        pieces.append("")
    pieces[-1] += name.text[last:]
    return tuple(pieces), tuple(order)


# --- all rules ---


def index_rules(rules: list[Rule], bag: DiagnosticBag) -> dict[str, tuple[Rule, int]]:
    """Shape of name -> the rule that covers it, and its place among the rule's shapes.

    Two rules for one shape are a mistake.
    """
    by_shape: dict[str, tuple[Rule, int]] = {}
    for rule in rules:
        for place, shape in enumerate(rule.shapes):
            if shape in by_shape:
                bag.add(c.MAPPED_TWICE.at(rule.span, f"a second rule for `{_shown(shape)}`"))
            by_shape.setdefault(shape, (rule, place))
    return by_shape


def _shown(shape: str) -> str:
    return shape.replace(f".{NUMBER}", "[...]")


def left_side(shape: str) -> str:
    """A shape of name as the left side of a rule."""
    return shape.replace(f".{NUMBER}", "[i]", 1).replace(f".{NUMBER}", "[e]", 1)
