"""Which shipped model a config.json describes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.diagnostics import DiagnosticBag, SourceErrors, nearest
from moec.dsl.load import load
from moec.dsl.resolve import FindModel, Resolver
from moec.dsl.source import SourceText

from .exporting import checkpoint_config
from .importing import check_config, checkpoint_overrides
from .keys import flatten, same, shown

_TYPE = "model_type"
_ELSE = "`moec models` lists those there are; `--spec FILE` takes a text of your own"


def spec_with_config(
    spec: str | Path, config: Mapping[str, object], find_model: FindModel, shipped: Sequence[str]
) -> m.Spec:
    """A file, or a shipped model by its name, with all values of a config.json. Raises SourceErrors."""
    overrides = checkpoint_overrides(config, load(spec, (), find_model, shipped))
    found = load(spec, overrides, find_model, shipped, given_by="config.json")
    check_config(config, found)
    return found


def spec_from_config(config: Mapping[str, object], find_model: FindModel, shipped: Sequence[str]) -> m.Spec:
    """The shipped model of a config.json's `model_type`, with all its values.

    Of several that fit, the one that has most of the values by itself, and of those the first. Raises
    SourceErrors: where none fits, that of the model with the fewest faults.
    """
    failures: list[SourceErrors] = []
    found: list[tuple[int, m.Spec]] = []
    for name in _candidates(config, find_model, shipped):
        try:
            own = checkpoint_config(load(name, (), find_model, shipped))
            found.append((_in_common(config, own), spec_with_config(name, config, find_model, shipped)))
        except SourceErrors as error:
            failures.append(error)
    if not found:
        raise min(failures, key=lambda error: len(error.diagnostics))
    return max(found, key=lambda fitting: fitting[0])[1]


def _in_common(config: Mapping[str, object], own: Mapping[str, object]) -> int:
    """How many keys have one value in both."""
    values = flatten(own)
    return sum(key in values and same(value, values[key]) for key, value in flatten(config).items())


def _candidates(config: Mapping[str, object], find_model: FindModel, shipped: Sequence[str]) -> list[str]:
    """The shipped models of the config's `model_type`, of which there is one at least."""
    types = {name: _model_type(name, find_model, shipped) for name in shipped}
    wanted = config.get(_TYPE)
    candidates = [name for name, found in types.items() if found is not None and found == wanted]
    if not candidates:
        label = f"no shipped model has {_TYPE} {shown(wanted)}"
        known = sorted({found for found in types.values() if found is not None})
        advice = nearest(str(wanted)[:80], known) or _ELSE
        raise SourceErrors([c.CONFIG_MISMATCH.at(None, label, advice=advice)])
    return candidates


def _model_type(name: str, find_model: FindModel, shipped: Sequence[str]) -> str | None:
    """The `model_type` of a shipped text; None for runs, and for models without a weight map."""
    found = find_model(name)
    if found is None:
        return None
    source = SourceText(*found)
    file = Resolver(find_model, shipped, DiagnosticBag()).resolve(source, Path(), f"shipped:{source.name}")
    checkpoint = file.block("checkpoint")
    config = checkpoint.block("config") if checkpoint is not None else None
    if config is None or file.block("train") is not None:
        return None
    values = (x.value for x in config.settings() if any(target.text == _TYPE for target in x.targets))
    return next((value.text for value in values if isinstance(value, s.String)), None)
