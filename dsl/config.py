"""`config { ... }` of a weight map in use: a `config.json` -> overrides, and a spec -> a `config.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.diagnostics import Diagnostic, DiagnosticBag, Mistake, SourceErrors, closest, nearest
from moec.dsl.explicit import explicit
from moec.dsl.load import load
from moec.dsl.parse import parse_text
from moec.dsl.paths import NoPath, read
from moec.dsl.quantities import parse_quantity
from moec.dsl.resolve import FindModel
from moec.dsl.source import SourceText
from moec.dsl.vocabulary import takes_real

HARMLESS = frozenset(
    (
        "_attn_implementation", "_name_or_path", "auto_map", "dtype", "output_attentions",
        "output_hidden_states", "output_router_logits", "pretraining_tp", "return_dict", "tokenizer_class",
        "torch_dtype", "transformers_version", "use_cache",
    )
)  # fmt: skip
"""Keys that change nothing that is computed, with any value. So do all that end in `_token_id`."""

MUST_BE_ZERO = frozenset(
    ("attention_dropout", "hidden_dropout", "resid_pdrop", "embd_pdrop", "router_jitter_noise")
)

_ABSENT = object()


def checkpoint_overrides(config: Mapping[str, object], spec: m.Spec) -> list[str]:
    """The `--set` list that makes `spec` the model a config.json describes.

    Raises SourceErrors where a constant differs, a key is missing, or a key is present that the text does not
    know.
    """
    checkpoint = _checkpoint(spec)
    values = _flatten(config)
    bag = DiagnosticBag()
    overrides: list[str] = []
    for entry in checkpoint.config:
        overrides += bag.attempt(_entry_overrides, entry, values) or []
    known = {key for entry in checkpoint.config for key in entry.keys}
    for key, value in values.items():
        if key not in known and key not in checkpoint.config_ignored and not _harmless(key, value):
            bag.add(_unknown(key, value, sorted(known)))
    bag.raise_if_any()
    return overrides


def checkpoint_config(spec: m.Spec) -> dict[str, object]:
    """The config.json of a spec: every entry of its `config` block, under the first of its spellings."""
    checkpoint = _checkpoint(spec)
    file = explicit(parse_text(SourceText("<resolved>", spec.text), DiagnosticBag()), spec)
    bag = DiagnosticBag()
    config: dict[str, object] = {}
    for entry in checkpoint.config:
        value = bag.attempt(_exported, entry, file, len(spec.model.layers))
        _put(config, entry.keys[0], value)
    bag.raise_if_any()
    return config


def _checkpoint(spec: m.Spec) -> m.Checkpoint:
    if spec.checkpoint is None:
        label = f"the model `{spec.model.name}` has no `checkpoint huggingface {{ ... }}`"
        raise SourceErrors([c.NO_MAP.at(None, label)])
    return spec.checkpoint


def _flatten(config: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested objects as dotted keys; what nests beyond a few levels stays a value."""
    flat: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and prefix.count(".") < 4:
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def spec_from_config(config: Mapping[str, object], find_model: FindModel, shipped: Sequence[str]) -> m.Spec:
    """The shipped model of a config.json's `model_type`, with all its values. Raises SourceErrors."""
    types: dict[str, str] = {}
    for name in shipped:
        spec = load(name, (), find_model, shipped)
        found = _model_type(spec)
        if found is not None and spec.train.origin == m.NOWHERE:  # a model, not a run
            types.setdefault(found, name)
    wanted = config.get("model_type")
    if not isinstance(wanted, str) or wanted not in types:
        label = f"no shipped model has model_type {_show(wanted)}"
        advice = nearest(str(wanted), list(types))
        raise SourceErrors([c.CONFIG_MISMATCH.at(None, label, advice=advice)])
    spec = load(types[wanted], (), find_model, shipped)
    return load(types[wanted], checkpoint_overrides(config, spec), find_model, shipped)


def _model_type(spec: m.Spec) -> str | None:
    entries = spec.checkpoint.config if spec.checkpoint else ()
    return next((str(entry.constant) for entry in entries if "model_type" in entry.keys), None)


# --- import ---


def _entry_overrides(entry: m.ConfigEntry, values: Mapping[str, object]) -> list[str]:
    key, value = next(((k, values[k]) for k in entry.keys if k in values), (entry.keys[0], _ABSENT))
    if not entry.paths:
        _check_constant(entry, key, value)
        return []
    if value is None or value is _ABSENT:
        if not entry.has_default:
            raise Mistake(c.CONFIG_MISSING.at(None, f"`{key}` is missing", _from(entry)))
        value = entry.default
    return [f"{path}={_override_value(key, value)}" for path in entry.paths]


def _check_constant(entry: m.ConfigEntry, key: str, value: object) -> None:
    if value is _ABSENT or (value is None and entry.has_default):
        return
    expected: object = list(entry.constant) if isinstance(entry.constant, tuple) else entry.constant
    items = value if entry.per_layer and isinstance(value, list) else [value]
    if not all(_same(item, expected) for item in items):
        label = f"`{key}` is {_show(value)}; this model has {_show(expected)}"
        raise Mistake(c.CONFIG_MISMATCH.at(None, label, _from(entry)))


def _same(value: object, expected: object) -> bool:
    """Equal, with 0 and 0.0 the same but not False."""
    return value == expected and isinstance(value, bool) == isinstance(expected, bool)


def _override_value(key: str, value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() if abs(value) < 10**18:
            return str(value)
        case float() if math.isfinite(value):
            return repr(value)
        case list() | tuple() if all(isinstance(x, int) and not isinstance(x, bool) for x in value):
            return f"[{', '.join(str(x) if abs(x) < 10**18 else '-1' for x in value)}]"
    raise Mistake(c.CONFIG_VALUE.at(None, f"`{key}` is {_show(value)}"))


def _harmless(key: str, value: object) -> bool:
    if value is None or key in HARMLESS or key.endswith("_token_id"):
        return True
    return key in MUST_BE_ZERO and _same(value, 0)


def _unknown(key: str, value: object, known: Sequence[str]) -> Diagnostic:
    if key in MUST_BE_ZERO:
        return c.CONFIG_MISMATCH.at(None, f"`{key}` is {_show(value)}; only 0 is supported")
    label = f"`{key[:80]}` is {_show(value)}, and the model text does not bind it"
    return c.CONFIG_UNKNOWN.at(None, label, advice=closest(key, known))


def _from(entry: m.ConfigEntry) -> str:
    return f"asked for by {entry.origin}: {' '.join(entry.origin.text.split())}"


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


# --- export ---


def _exported(entry: m.ConfigEntry, file: s.File, layers: int) -> object:
    if not entry.paths:
        constant = list(entry.constant) if isinstance(entry.constant, tuple) else entry.constant
        return [constant] * layers if entry.per_layer else constant
    values = [_value_at(file, path, entry) for path in entry.paths]
    if any(value != values[0] for value in values):
        label = f"`{entry.keys[0]}` holds one value, and {' and '.join(entry.paths)} differ"
        raise Mistake(c.CONFIG_VALUE.at(None, label, _from(entry)))
    return values[0]


def _value_at(file: s.File, path: str, entry: m.ConfigEntry) -> object:
    steps = path.split(".")
    try:
        expr = read(file, steps)
    except NoPath as error:
        raise Mistake(c.CONFIG_PATH.at(None, f"`{path}`: {error.label}", _from(entry))) from None
    model = file.block("model")
    bound = model.find(expr.text) if model is not None and isinstance(expr, s.Ref) else None
    return _literal(bound.value if bound is not None else expr, takes_real(steps[-1]))


def _literal(expr: s.Expr, real: bool) -> object:
    match expr:
        case s.Number():
            number = parse_quantity(expr.text).value
            return float(number) if real else int(number)
        case s.Ref(names=("true" | "false" as word,)):
            return word == "true"
        case s.Ref(names=("none",)):
            return None
        case s.ListOf(items=items):
            return [_literal(item, real) for item in items]
    raise Mistake(c.CONFIG_VALUE.at(None, f"{s.describe(expr)} is no value of a config.json"))


def _put(config: dict[str, object], key: str, value: object) -> None:
    """Set a dotted key, making the objects on the way."""
    *parents, last = key.split(".")
    for name in parents:
        inner = config.setdefault(name, {})
        assert isinstance(inner, dict)
        config = inner
    config[last] = value
