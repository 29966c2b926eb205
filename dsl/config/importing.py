"""A config.json -> the overrides that make a spec the model that it describes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.diagnostics import Diagnostic, DiagnosticBag, Mistake, closest
from moec.dsl.limits import DIAGNOSTICS_SHOWN, LIST_ITEMS
from moec.dsl.override import apply_overrides
from moec.dsl.parse import parse_text
from moec.dsl.paths import NoPath, read
from moec.dsl.source import SourceText

from .found import ABSENT, Setting, found, missing
from .keys import (
    MUST_BE_ZERO,
    QUANTISED,
    asked_by,
    checkpoint_of,
    flatten,
    is_harmless,
    same,
    same_class,
    shown,
    shown_key,
)
from .layered import check_layers, has_names, number_settings, pattern_settings

_WHOLE = 10**18  # whole numbers are less


def checkpoint_overrides(config: Mapping[str, object], spec: m.Spec) -> list[str]:
    """The `--set` list that makes `spec` the model a config.json describes.

    `check_config` compares what can be compared only then. Raises SourceErrors where a constant differs, a
    key is missing or present without being known, or two keys say different things of one value.
    """
    checkpoint = checkpoint_of(spec)
    values = flatten(config)
    file = parse_text(SourceText("<resolved>", spec.text), DiagnosticBag())
    bag = DiagnosticBag()
    settings: dict[str, Setting] = {}
    for entry in checkpoint.config:
        for setting in bag.attempt(_settings, entry, values, file) or []:
            settings[setting.path] = _agreed(settings.get(setting.path), setting, entry, bag)
    changed = apply_overrides(file, _overrides(settings, bag), bag, "config.json") if not len(bag) else file
    for entry in filter(has_names, checkpoint.config) if not len(bag) else ():
        for setting in bag.attempt(number_settings, entry, values, changed) or []:
            settings[setting.path] = _agreed(settings.get(setting.path), setting, entry, bag)
    overrides = _overrides(settings, bag)
    _report_unknown(values, checkpoint, bag)
    bag.raise_if_any()
    return overrides


def _agreed(old: Setting | None, new: Setting, entry: m.ConfigEntry, bag: DiagnosticBag) -> Setting:
    """The one of two settings of a path that the file has; both have to say the same if it has both."""
    if old is None or not (old.given and new.given):
        return old if old is not None and old.given else new
    if not same(old.value, new.value):
        label = f"`{old.key}` is {shown(old.value)} and `{new.key}` is {shown(new.value)}"
        note = f"in this model both are `{new.path}`"
        bag.add(c.CONFIG_MISMATCH.at(None, label, note, asked_by(entry)))
    return old


def check_config(config: Mapping[str, object], spec: m.Spec) -> None:
    """Lists with an entry a layer say what the layers of `spec` are, which has the values of the config.

    Raises SourceErrors otherwise.
    """
    values = flatten(config)
    bag = DiagnosticBag()
    for entry in checkpoint_of(spec).config:
        if entry.arms:
            bag.attempt(check_layers, entry, values)
    bag.raise_if_any()


def _report_unknown(values: Mapping[str, object], checkpoint: m.Checkpoint, bag: DiagnosticBag) -> None:
    known = {key for entry in checkpoint.config for key in entry.keys}
    ignored = frozenset(checkpoint.config_ignored)
    quantised = next((key for key in values if key.partition(".")[0] == QUANTISED), QUANTISED)
    if quantised not in known and values.get(quantised) is not None and QUANTISED not in ignored:
        label = f"`{QUANTISED}`: quantised weights are not read; import the checkpoint as floats"
        bag.add(c.CONFIG_MISMATCH.at(None, label))
        ignored |= {QUANTISED}
    unknown = [key for key in values if key not in known and not is_harmless(key, values[key], ignored)]
    for key in unknown[:DIAGNOSTICS_SHOWN]:
        bag.add(_unknown(key, values[key], sorted(known)))
    if len(unknown) > DIAGNOSTICS_SHOWN:
        label = f"{len(unknown) - DIAGNOSTICS_SHOWN} more keys that the model text does not bind"
        bag.add(c.CONFIG_UNKNOWN.at(None, label))


def _unknown(key: str, value: object, known: Sequence[str]) -> Diagnostic:
    if key.rpartition(".")[2] in MUST_BE_ZERO:
        return c.CONFIG_MISMATCH.at(None, f"{shown_key(key)} is {shown(value)}; only 0 is supported")
    label = f"{shown_key(key)} is {shown(value)}, and the model text does not bind it"
    return c.CONFIG_UNKNOWN.at(None, label, advice=closest(key, known))


# --- one entry ---


def _settings(entry: m.ConfigEntry, values: Mapping[str, object], file: s.File) -> list[Setting]:
    key, value = found(entry, values)
    if entry.arms:
        return pattern_settings(entry, key, value)
    if not entry.paths:
        _check_constant(entry, key, value)
        return []
    given = value is not None and value is not ABSENT
    if not given:
        if not entry.has_default:
            raise missing(entry, key)
        value = entry.default
    paths = [path for path in entry.paths if value is not None or not _is_off(path, file)]
    return [Setting(path, key, value, given) for path in paths]


def _is_off(path: str, file: s.File) -> bool:
    """Whether a path leads nowhere as the text stands, which is what null says."""
    try:
        read(file, path.split("."))
    except NoPath as error:
        return error.absent
    return False


def _check_constant(entry: m.ConfigEntry, key: str, value: object) -> None:
    if value is ABSENT or (value is None and entry.has_default):
        return
    items = value if entry.per_layer and isinstance(value, list) else [value]
    compared = same_class if key == "architectures" else same
    if not all(compared(item, entry.constant) for item in items):
        expected = list(entry.constant) if isinstance(entry.constant, tuple) else entry.constant
        label = f"`{key}` is {shown(value)}; this model has {shown(expected)}"
        raise Mistake(c.CONFIG_MISMATCH.at(None, label, asked_by(entry)))


# --- values of overrides ---


def _overrides(settings: Mapping[str, Setting], bag: DiagnosticBag) -> list[str]:
    overrides = [bag.attempt(_override, setting) for setting in settings.values()]
    return [override for override in overrides if override is not None]


def _override(setting: Setting) -> str:
    return f"{setting.path}={_override_value(setting.key, setting.value)}"


def _override_value(key: str, value: object) -> str:
    if isinstance(value, list | tuple) and len(value) <= LIST_ITEMS:
        items = [_number(item) for item in value]
        if None not in items:
            return f"[{', '.join(map(str, items))}]"
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    text = _number(value)
    if text is None:
        raise Mistake(c.CONFIG_VALUE.at(None, f"{shown_key(key)} is {shown(value)}"))
    return text


def _number(value: object) -> str | None:
    match value:
        case bool():
            return None
        case int() if abs(value) < _WHOLE:
            return str(value)
        case float() if math.isfinite(value):
            return repr(value)
    return None
