"""The order of a router's stages, and which of them go with the one that chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl.diagnostics import Diagnostic
from moec.dsl.source import Span
from moec.dsl.vocabulary import CHOOSERS, ROUTER_ORDER

_CHOICE = ROUTER_ORDER.index(CHOOSERS)
_SEVERAL = frozenset(i for i, group in enumerate(ROUTER_ORDER) if "scale" in group)
_SCORES = next(group for group in ROUTER_ORDER if "sqrt_softplus" in group)
_FOR_THE_CHOICE = ("correction_bias", "sinkhorn", "groups")
_ADVICE = 200  # characters of a pipeline that is suggested


@dataclass(frozen=True)
class Written:
    """A stage as written."""

    name: str
    span: Span


def check_order(stages: Sequence[Written], place: Span) -> list[Diagnostic]:
    """What is wrong with the order of stages, or else with their company; `place` is the pipeline's."""
    if not any(stage.name in CHOOSERS for stage in stages):
        advice = "one of: " + ", ".join(f"`{name}(k)`" for name in CHOOSERS)
        return [c.BAD_ROUTER.at(place, "no stage of this router chooses experts", advice=advice)]
    wrong = _out_of_order(stages)
    if wrong is not None:
        return [wrong]
    at = next(i for i, stage in enumerate(stages) if stage.name in CHOOSERS)
    return _unfit(stages[at], stages[:at], stages[at + 1 :])


def _out_of_order(stages: Sequence[Written]) -> Diagnostic | None:
    """The first stage that cannot stand where it does."""
    last = -1
    for index, stage in enumerate(stages):
        place = _place(stage.name, last)
        label = _fault(stages[:index], stage, place, last)
        if label:
            return c.BAD_ROUTER.at(stage.span, label, advice=_rearranged(stages))
        last = place
    return None


def _place(name: str, last: int) -> int:
    """The group of a name: of two, the one on this side of the choice."""
    places = [i for i, group in enumerate(ROUTER_ORDER) if name in group]
    return places[-1] if last >= _CHOICE else places[0]


def _fault(before: Sequence[Written], stage: Written, place: int, last: int) -> str:
    name = stage.name
    if place == _CHOICE and last >= _CHOICE:
        chosen = next(one.name for one in before if one.name in CHOOSERS)
        return f"`{chosen}` has chosen the experts already"
    if place > _CHOICE > last:
        return f"`{name}` works on the weights of the chosen experts, so it follows the choice"
    if place < _CHOICE <= last:
        return f"`{name}` works on all experts, so it precedes the choice"
    if place < last:
        return f"`{name}` belongs before `{before[-1].name}`"
    if place == last and place not in _SEVERAL:
        other = before[-1].name
        return f"`{name}` is given twice" if other == name else f"`{other}` and `{name}` exclude each other"
    if name == "expert_scale" and any(one.name == name for one in before):
        return f"`{name}` is given twice"
    return ""


def _rearranged(stages: Sequence[Written]) -> str:
    """The same stages in a legal order, if there is one."""
    choice = next(i for i, stage in enumerate(stages) if stage.name in CHOOSERS)
    places = [_intended(stages, i, choice) for i in range(len(stages))]
    ordered = [stages[i] for i in sorted(range(len(stages)), key=lambda i: places[i])]
    text = " | ".join(_text(stage.span) for stage in ordered)
    legal = not _unordered(ordered) and len(text) <= _ADVICE and text.isprintable()
    return f"write `{text}`" if legal else ""


def _intended(stages: Sequence[Written], index: int, choice: int) -> int:
    """The group that a stage was likely meant to be of; a factor of scores is one of weights."""
    scored = any(stage.name in _SCORES for stage in stages[:index])
    after = index > choice or (scored and stages[index].name == "scale")
    return _place(stages[index].name, _CHOICE if after else -1)


def _unordered(stages: Sequence[Written]) -> bool:
    last = -1
    for index, stage in enumerate(stages):
        place = _place(stage.name, last)
        if _fault(stages[:index], stage, place, last):
            return True
        last = place
    return False


def _text(span: Span) -> str:
    return span.source.text[span.start : span.end]


# --- company ---


def _unfit(chooser: Written, before: Sequence[Written], after: Sequence[Written]) -> list[Diagnostic]:
    def wrong(stages: Sequence[Written], names: Sequence[str], label: str) -> list[Diagnostic]:
        return [c.BAD_ROUTER.at(one.span, label) for one in stages if one.name in names]

    if chooser.name == "sparsemixer":
        label = "`sparsemixer` chooses by the logits and gives weights of its own"
        return wrong(before, _SCORES + _FOR_THE_CHOICE, label) + wrong(after, _SCORES, label)
    if not _weighed(before, after):
        label = "the weights would be logits, of any sign and size"
        advice = f"put `softmax` or `sigmoid` before `{chooser.name}` or after it"
        return [c.BAD_ROUTER.at(chooser.span, label, advice=advice)]
    if chooser.name in ("hash", "round_robin"):
        label = f"`{chooser.name}` chooses without looking at scores, so this changes nothing"
        return wrong(before, _FOR_THE_CHOICE, label)
    return []


def _weighed(before: Sequence[Written], after: Sequence[Written]) -> bool:
    return any(stage.name in _SCORES for stage in (*before, *after))
