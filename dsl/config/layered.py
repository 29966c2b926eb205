"""Lists of a config.json with an entry for every layer: `key = match layer { pattern => value, ... }`.

On import they say two things of a model: which layers a pattern holds for, where the value is a constant, and
which number a name is bound to, where the value is such a name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.evaluation import evaluation
from moec.dsl.diagnostics import Mistake
from moec.dsl.limits import LIST_ITEMS

from .found import ABSENT, Setting, found, missing
from .keys import asked_by, same, shown


def pattern_settings(entry: m.ConfigEntry, key: str, value: object) -> list[Setting]:
    """A binding that is the pattern of an arm becomes the list of the layers with the arm's value.

    Raises Mistake for a value that no arm has.
    """
    items = _items(entry, key, value)
    if items is None:
        return []
    settings, taken = [], set[int]()
    for arm in entry.arms:
        layers = [i for i, item in enumerate(items) if i not in taken and same(item, arm.value)]
        if arm.binding is not None and arm.name is None:
            settings.append(Setting(arm.binding, key, layers, True))
            taken |= {*layers}
    if not has_names(entry):
        _report_strange(entry, key, items)
    return settings


def _report_strange(entry: m.ConfigEntry, key: str, items: Sequence[object]) -> None:
    known = [arm.value for arm in entry.arms]
    strange = next((item for item in items if not any(same(item, value) for value in known)), None)
    if strange is not None:
        label = f"`{key}` has {shown(strange)} for a layer; this model has {' and '.join(map(shown, known))}"
        raise Mistake(c.CONFIG_MISMATCH.at(None, label, asked_by(entry)))


def has_names(entry: m.ConfigEntry) -> bool:
    """Whether a value of the list is the name of a number."""
    return any(arm.name is not None for arm in entry.arms)


def number_settings(entry: m.ConfigEntry, values: Mapping[str, object], file: s.File) -> list[Setting]:
    """A name that is the value of arms becomes the number that the list has for their layers.

    `file` has all other values of the config. Raises Mistake where one is no number, or where those layers
    have different ones.
    """
    key, value = found(entry, values)
    items, chosen = _items(entry, key, value), _chosen(entry, file)
    numbers: dict[str, tuple[int, object]] = {}
    for layer, (item, index) in enumerate(zip(items or (), chosen, strict=False)):
        name = entry.arms[index].name
        if name is None:
            continue
        if isinstance(item, bool) or not isinstance(item, int | float):
            label = f"`{key}` has {shown(item)} for layer {layer}; expected a number, `{name}`"
            raise Mistake(c.CONFIG_VALUE.at(None, label, asked_by(entry)))
        first, number = numbers.setdefault(name, (layer, item))
        if not same(number, item):
            label = f"`{key}` has {shown(number)} for layer {first} and {shown(item)} for layer {layer}"
            note = f"in this model both are `{name}`"
            raise Mistake(c.CONFIG_MISMATCH.at(None, label, note, asked_by(entry)))
    return [Setting(name, key, number, True) for name, (_, number) in numbers.items()]


def _chosen(entry: m.ConfigEntry, file: s.File) -> Sequence[int]:
    """For every layer the index of its arm; none where that cannot be said: checking `file` tells why."""
    model, checkpoint = file.block("model"), file.block("checkpoint")
    config = checkpoint.block("config") if checkpoint is not None else None
    assert model is not None
    assert config is not None
    match = next(x.value for x in config.settings() if x.targets[0].text == entry.keys[0])
    assert isinstance(match, s.Match)
    try:
        return evaluation(model).chosen(match)
    except Mistake:
        return ()


def _items(entry: m.ConfigEntry, key: str, value: object) -> list[object] | None:
    """The list; None if the file lacks it."""
    if value is ABSENT or (value is None and entry.has_default):
        if has_names(entry) and not entry.has_default:
            raise missing(entry, key)
        return None
    if not isinstance(value, list) or len(value) > LIST_ITEMS:
        label = f"`{key}` is {shown(value)}; expected a list with an entry for every layer"
        raise Mistake(c.CONFIG_VALUE.at(None, label, asked_by(entry)))
    return value


def check_layers(entry: m.ConfigEntry, values: Mapping[str, object]) -> None:
    """The list says what the layers of the model are. Raises Mistake otherwise."""
    key, value = found(entry, values)
    items = _items(entry, key, value)
    if items is None:
        return
    if len(items) != len(entry.layers):
        label = f"`{key}` has {len(items)} entries; this model has {len(entry.layers)} layers"
        raise Mistake(c.CONFIG_MISMATCH.at(None, label, asked_by(entry)))
    for layer, (item, expected) in enumerate(zip(items, entry.layers, strict=True)):
        if not same(item, expected):
            label = f"`{key}` has {shown(item)} for layer {layer}; this model has {shown(expected)}"
            raise Mistake(c.CONFIG_MISMATCH.at(None, label, asked_by(entry)))
