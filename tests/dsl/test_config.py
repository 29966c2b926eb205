"""A config.json becomes overrides and comes back from the spec, by the `config` block alone."""

from __future__ import annotations

import pytest

from dsl_configs import CONFIG, TEXT
from dsl_texts import SMALL, codes, edited, load
from moec import dsl, models
from moec.dsl import catalogue as c
from moec.dsl import spec as m


def _import(config: dict[str, object]) -> dsl.Spec:
    return load(TEXT, *dsl.checkpoint_overrides(config, load(TEXT)))


def _faults(config: dict[str, object]) -> tuple[dsl.Diagnostic, ...]:
    with pytest.raises(dsl.SourceErrors) as caught:
        dsl.checkpoint_overrides(config, load(TEXT))
    return caught.value.diagnostics


def test_import_and_export_are_inverse() -> None:
    assert dsl.checkpoint_config(_import(CONFIG)) == CONFIG


def test_import_sets_what_the_paths_name() -> None:
    spec = _import(CONFIG)
    assert (spec.model.width, len(spec.model.layers)) == (32, 3)
    value = spec.model.layers[0].equations[1].value
    assert isinstance(value, m.Call)
    assert isinstance(value.component, m.Moe)
    assert value.component.router == (m.Softmax(), m.Top(2))
    assert value.component.balance == (m.AuxLoss(0.25),)


def test_a_spelling_and_a_default_stand_in_for_a_key() -> None:
    config = {
        key: value for key, value in CONFIG.items() if key not in ("n_layers", "rope", "bias", "head_dim")
    }
    back = dsl.checkpoint_config(_import({**config, "depth": 2}))
    assert back == {**CONFIG, "n_layers": 2, "kinds": ["full"] * 2, "rope": {"theta": 5000}, "head_dim": 8}


def test_keys_without_effect_are_accepted() -> None:
    harmless = {
        "torch_dtype": "bfloat16", "dtype": "float32", "transformers_version": "5", "use_cache": True,
        "bos_token_id": 1, "eos_token_id": [2, 3], "attention_dropout": 0.0, "note": "kept", "unknown": None,
    }  # fmt: skip
    assert _import({**CONFIG, **harmless}) == _import(CONFIG)


FAULTS: dict[str, tuple[dict[str, object], c.Kind, str]] = {
    "a constant differs": ({"dropout": 0.1}, c.CONFIG_MISMATCH, "`dropout` is 0.1; this model has 0.0"),
    "a constant of another kind": ({"dropout": False}, c.CONFIG_MISMATCH, "`dropout` is False"),
    "a layer differs": ({"kinds": ["full", "sliding"]}, c.CONFIG_MISMATCH, "sliding"),
    "a key is missing": ({"hidden_size": None}, c.CONFIG_MISSING, "`hidden_size` is missing"),
    "a key is unknown": ({"hiden": 3}, c.CONFIG_UNKNOWN, "`hiden` is 3"),
    "a nested key is unknown": ({"rope": {"factor": 2.0}}, c.CONFIG_UNKNOWN, "`rope.factor` is 2.0"),
    "a key that looks nested": ({"rope.theta": 2.0}, c.CONFIG_UNKNOWN, '`"rope.theta"` is 2.0'),
    "dropout is on": ({"attention_dropout": 0.1}, c.CONFIG_MISMATCH, "only 0 is supported"),
    "a value is a string": ({"hidden_size": "32"}, c.CONFIG_VALUE, "`hidden_size` is '32'"),
    "a value is not finite": ({"balance": float("inf")}, c.CONFIG_VALUE, "`balance` is inf"),
    "a value is an object": ({"hidden_size": {"a": 1}}, c.CONFIG_UNKNOWN, "`hidden_size.a` is 1"),
}


@pytest.mark.parametrize(("change", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_fault(change: dict[str, object], kind: c.Kind, message: str) -> None:
    found = _faults({**CONFIG, **change})
    assert kind.code in codes(found)
    assert any(message in diagnostic.label for diagnostic in found)


def test_an_object_is_ignored_with_all_that_is_in_it() -> None:
    assert _import({**CONFIG, "note": {"a": {"b": 1}, "c": 2}}) == _import(CONFIG)
    assert codes(_faults({**CONFIG, "notes": {"a": 1}})) == {c.CONFIG_UNKNOWN.code}


def test_all_faults_are_reported_at_once() -> None:
    assert len(_faults({**CONFIG, "dropout": 1, "hidden_size": None, "new": 1})) == 3


def test_a_bad_value_is_found_by_the_checker_at_the_override() -> None:
    with pytest.raises(dsl.SourceErrors) as caught:
        _import({**CONFIG, "hidden_size": -3})
    assert caught.value.diagnostics[0].span is not None
    assert caught.value.diagnostics[0].span.source.text == "hidden_size=-3".replace("hidden_size", "width")


def test_paths_that_differ_cannot_share_a_key() -> None:
    text = edited(TEXT, "[experts.experts]", "[experts.experts, attention.heads]")
    assert dsl.checkpoint_config(load(text))["experts"] == 4
    with pytest.raises(dsl.SourceErrors) as caught:
        dsl.checkpoint_config(load(text, "experts.experts=5"))
    assert codes(caught.value.diagnostics) == {c.CONFIG_VALUE.code}


def test_keys_of_one_path_cannot_say_different_things() -> None:
    """What a file has counts more than a default, whichever comes first; what it has twice must agree."""
    text = edited(
        TEXT, "        dropout ", "        size = width else 1\n        wide = width else 2\n        dropout "
    )
    for change in ({}, {"size": 32}, {"wide": 32.0}, {"wide": None}):
        spec = load(text, *dsl.checkpoint_overrides({**CONFIG, **change}, load(text)))
        assert spec.model.width == 32
    with pytest.raises(dsl.SourceErrors) as caught:
        dsl.checkpoint_overrides({**CONFIG, "wide": 33}, load(text))
    (found,) = caught.value.diagnostics
    assert (found.label, found.notes[0]) == (
        "`hidden_size` is 32 and `wide` is 33",
        "in this model both are `width`",
    )


def test_numbers_are_written_like_the_default() -> None:
    """transformers refuses 5000.0 for a key of whole numbers, and 2 for one of others."""
    for default, value, wanted in (("5000", "300.0", 300), ("5000", "0.5", 0.5), ("1.0", "300", 300.0)):
        text = edited(TEXT, "attention.rope.theta else 5000", f"attention.rope.theta else {default}")
        found = dsl.checkpoint_config(load(text, f"attention.rope.theta={value}"))["rope"]
        assert repr(found) == repr({"theta": wanted})


def test_what_a_value_turns_off_cannot_be_exported() -> None:
    with pytest.raises(dsl.SourceErrors) as caught:
        dsl.checkpoint_config(load(TEXT, "attention.rope=none"))
    assert codes(caught.value.diagnostics) == {c.CONFIG_PATH.code}


def test_a_model_without_a_map_cannot_be_exported() -> None:
    with pytest.raises(dsl.SourceErrors) as caught:
        dsl.checkpoint_config(load(SMALL))
    assert codes(caught.value.diagnostics) == {c.NO_MAP.code}


def test_the_shipped_model_of_a_config_is_found_by_its_type() -> None:
    spec = dsl.load("olmoe_1b_7b", find_model=models.read)
    config = dsl.checkpoint_config(spec)
    found = dsl.spec_from_config(config, models.read, models.names())
    assert (found.model, found.checkpoint) == (spec.model, spec.checkpoint)
    with pytest.raises(dsl.SourceErrors) as caught:
        dsl.spec_from_config({**config, "model_type": "olmo"}, models.read, models.names())
    assert "`olmoe`" in caught.value.diagnostics[0].advice


SHELF = {
    "far": TEXT.replace('"small"', '"other"'),
    "near": TEXT.replace("dropout          = 0.0", "dropout          = 0.5"),
    "same": TEXT,
    "later": TEXT,
    "wide": TEXT.replace("layers 2 {", "layers 3 {"),
}


def _found(config: dict[str, object], *names: str) -> dsl.Spec:
    def find(name: str) -> tuple[str, str] | None:
        return (f"{name}.moe", SHELF[name].replace("model small", f"model {name}")) if name in SHELF else None

    return dsl.spec_from_config(config, find, names)


def test_the_first_model_that_fits_is_taken() -> None:
    """The first of those that have as many of the values by themselves: `wide` has the layers, too."""
    assert _found(CONFIG, "far", "near", "same", "later").model.name == "same"
    assert _found(CONFIG, "later", "same").model.name == "later"
    assert _found(CONFIG, "later", "wide", "same").model.name == "wide"
    assert _found({**CONFIG, "n_layers": 2, "kinds": ["full"] * 2}, "wide", "same").model.name == "same"
    assert _found({**CONFIG, "dropout": 0.5}, "far", "near", "same").model.name == "near"


def test_where_no_model_fits_the_one_with_the_fewest_faults_speaks() -> None:
    with pytest.raises(dsl.SourceErrors) as caught:
        _found({**CONFIG, "dropout": 0.0, "strange": 1}, "near", "same")
    (found,) = caught.value.diagnostics
    assert "`strange` is 1" in found.label
