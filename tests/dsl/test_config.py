"""A config.json becomes overrides and comes back from the spec, by the `config` block alone."""

from __future__ import annotations

import pytest

from dsl_texts import SMALL, codes, edited, load
from moec import dsl, models
from moec.dsl import catalogue as c
from moec.dsl import spec as m

TEXT = (
    SMALL
    + """
checkpoint huggingface {
    embed                                      = "embed.weight"
    layers[i].attention.{q,k,v,o}              = "h.{i}.attn.{}.weight"
    layers[i].{attention,experts}.norm         = "h.{i}.{}_norm.weight"
    layers[i].experts.router                   = "h.{i}.router.weight"
    layers[i].experts.expert[e].{gate,up,down} = "h.{i}.experts.{e}.{}.weight"
    norm                                       = "norm.weight"
    logits                                     = "head.weight"

    config {
        model_type       = "small"
        hidden_size      = width
        n_layers | depth = layers
        head_dim         = attention.head_dim else none
        bias             = attention.qkv_bias else false
        experts          = [experts.experts]
        rope.theta       = attention.rope.theta else 5000
        renormalize      = experts.router.renormalize
        balance          = experts.balance.aux_loss else 0.0
        window           = attention.window else none
        kinds            = each_layer("full")
        dropout          = 0.0
        ignore           = ["note"]
    }
}
"""
)
CONFIG: dict[str, object] = {
    "model_type": "small",
    "hidden_size": 32,
    "n_layers": 3,
    "head_dim": 16,
    "bias": False,
    "experts": 6,
    "rope": {"theta": 500.0},
    "renormalize": False,
    "balance": 0.25,
    "window": None,
    "kinds": ["full", "full", "full"],
    "dropout": 0.0,
    "pad_token_id": None,
}


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


# --- lists with an entry a layer, spellings, and several models of one type ---

LAYERED = edited(
    edited(TEXT, "attention = gqa(", "attention = gqa(window: match layer { full_layers => none, _ => 8 }, "),
    "    norm      = rms",
    "    full_layers = every(2)\n    factors = [1.5, 2, 3.25]\n    gain = 0.22\n    first = 1\n"
    "    norm      = rms",
)
LAYERED = edited(LAYERED, "        window           = attention.window else none\n", "")
LAYERED = edited(
    LAYERED,
    '        kinds            = each_layer("full")\n',
    """
        kinds       = match layer { full_layers => "full", _ => "sliding" }
        no_rope     = match layer { 0..first => 0, _ => 1 } else none
        flags       = match layer { every(1) => true }
        full        = full_layers else []
        factors     = factors
        old | new   = gain
        first       = first
        nothing     = none
        mixed       = [1, 2.5, "a"]
""",
)
LAYERED_CONFIG = {key: value for key, value in CONFIG.items() if key not in ("window", "kinds")} | {
    "kinds": ["full", "sliding", "full"],
    "no_rope": [0, 1, 1],
    "flags": [True] * 3,
    "full": [0, 2],
    "factors": [2.5, 1, 1e-5],
    "old": 0.5,
    "first": 1,
    "nothing": None,
    "mixed": [1, 2.5, "a"],
}


def _layered(**changes: object) -> dsl.Spec:
    config = {key: value for key, value in (LAYERED_CONFIG | changes).items() if value != "absent"}
    spec = load(LAYERED, *dsl.checkpoint_overrides(config, load(LAYERED)))
    dsl.check_config(config, spec)
    return spec


def _windows(spec: dsl.Spec) -> list[int | None]:
    calls = [layer.equations[0].value for layer in spec.model.layers]
    return [
        call.component.attend.window
        for call in calls
        if isinstance(call, m.Call) and isinstance(call.component, m.Gqa)
    ]


def test_a_list_over_layers_sets_the_binding_that_is_its_pattern() -> None:
    spec = _layered()
    assert _windows(spec) == [None, 8, None]
    found = dsl.checkpoint_config(spec)
    assert found == LAYERED_CONFIG
    assert [type(x) for x in found["factors"]] == [float, int, float]  # type: ignore[attr-defined]


def test_what_is_no_name_of_a_list_is_compared_only() -> None:
    assert dsl.checkpoint_config(_layered(first=2, no_rope=[0, 0, 1]))["no_rope"] == [0, 0, 1]
    with pytest.raises(dsl.SourceErrors) as caught:
        _layered(no_rope=[0, 0, 1])
    assert "`no_rope` has 0 for layer 1; this model has 1" in caught.value.diagnostics[0].label


def test_a_pattern_is_written_as_the_list_of_its_layers() -> None:
    found = dsl.checkpoint_config(load(LAYERED, "layers=5"))
    assert found["kinds"] == ["sliding", "full", "sliding", "full", "sliding"]
    assert found["full"] == [1, 3]
    assert found["old"] == 0.22


def test_two_lists_that_contradict_each_other_are_found_after_the_import() -> None:
    with pytest.raises(dsl.SourceErrors) as caught:
        _layered(full=[1])
    assert codes(caught.value.diagnostics) == {c.CONFIG_MISMATCH.code}


LAYER_FAULTS: dict[str, tuple[dict[str, object], c.Kind, str]] = {
    "an unknown kind": ({"kinds": ["full", "linear", "full"]}, c.CONFIG_MISMATCH, "has 'linear' for a layer"),
    "no list": ({"kinds": "full"}, c.CONFIG_VALUE, "`kinds` is 'full'; expected a list"),
    "null": ({"kinds": None}, c.CONFIG_VALUE, "`kinds` is None"),
    "too few": ({"kinds": ["full"] * 2, "full": [0, 1]}, c.CONFIG_MISMATCH, "has 2 entries; this model"),
    "a huge list": ({"kinds": ["full"] * 10_001}, c.CONFIG_VALUE, "`kinds` is ['full', 'full', "),
    "true is not 1": ({"no_rope": [False, True, True]}, c.CONFIG_MISMATCH, "has False for a layer"),
    "spellings differ": ({"new": 0.6}, c.CONFIG_MISMATCH, "`old` is 0.5, and `new`, the same fact, is 0.6"),
    "not null": ({"nothing": 0}, c.CONFIG_MISMATCH, "`nothing` is 0; this model has None"),
    "another constant": ({"mixed": [1, 2.5, "b"]}, c.CONFIG_MISMATCH, "this model has [1, 2.5, 'a']"),
    "numbers and others": ({"factors": [1.0, True]}, c.CONFIG_VALUE, "`factors` is [1.0, True]"),
    "nested lists": ({"factors": [[1.0]]}, c.CONFIG_VALUE, "`factors` is [[1.0]]"),
    "a long list": ({"factors": [1.0] * 10_001}, c.CONFIG_VALUE, "`factors` is [1.0, 1.0"),
    "quantised": (
        {"quantization_config": {"quant_method": "fp8", "block": {"a": 1}}}, c.CONFIG_MISMATCH, "as floats",
    ),
    "a key for a terminal": ({"\x1b[2Jx": 1}, c.CONFIG_UNKNOWN, "`?[2Jx` is 1"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), LAYER_FAULTS.values(), ids=LAYER_FAULTS)
def test_fault_of_a_list(change: dict[str, object], kind: c.Kind, message: str) -> None:
    with pytest.raises(dsl.SourceErrors) as caught:
        _layered(**change)
    (found,) = caught.value.diagnostics
    assert found.code == kind.code
    assert message in found.label


def test_a_list_may_be_left_out() -> None:
    """Then the pattern stays what the text says."""
    assert _windows(_layered(kinds="absent", full=[1])) == [8, None, 8]
    assert _windows(_layered(no_rope=None)) == [None, 8, None]


def test_spellings_may_agree_or_be_null() -> None:
    assert dsl.checkpoint_config(_layered(new=0.5))["old"] == 0.5
    assert dsl.checkpoint_config(_layered(old=None, new=0.75))["old"] == 0.75


def test_null_says_that_something_is_not_there() -> None:
    """The router has no groups, and a file with null has none either; another number is refused."""
    text = edited(
        TEXT,
        "        dropout ",
        "        groups           = experts.router.groups.groups else none\n        dropout ",
    )
    config = {**CONFIG, "groups": None}
    spec = load(text, *dsl.checkpoint_overrides(config, load(text)))
    assert dsl.checkpoint_config(spec) == config
    with pytest.raises(dsl.SourceErrors):
        load(text, *dsl.checkpoint_overrides({**config, "groups": 4}, load(text)))


def test_a_flood_of_unknown_keys_is_answered_briefly() -> None:
    """100 000 of them: a few are named, the rest is counted."""
    with pytest.raises(dsl.SourceErrors) as caught:
        _layered(**{f"key{i}": i for i in range(100_000)})
    assert len(caught.value.diagnostics) == 31
    assert any("99970 more keys" in diagnostic.label for diagnostic in caught.value.diagnostics)


NEAR = TEXT.replace("model small", "model near").replace("dropout          = 0.0", "dropout          = 0.5")
SHELF = {"far": TEXT.replace('"small"', '"other"'), "near": NEAR, "same": TEXT, "later": TEXT}


def _found(config: dict[str, object], *names: str) -> dsl.Spec:
    def find(name: str) -> tuple[str, str] | None:
        return (f"{name}.moe", SHELF[name].replace("model small", f"model {name}")) if name in SHELF else None

    return dsl.spec_from_config(config, find, names)


def test_the_first_model_that_fits_is_taken() -> None:
    assert _found(CONFIG, "far", "near", "same", "later").model.name == "same"
    assert _found(CONFIG, "later", "same").model.name == "later"
    assert _found({**CONFIG, "dropout": 0.5}, "far", "near", "same").model.name == "near"


def test_where_no_model_fits_the_one_with_the_fewest_faults_speaks() -> None:
    with pytest.raises(dsl.SourceErrors) as caught:
        _found({**CONFIG, "dropout": 0.0, "strange": 1}, "near", "same")
    (found,) = caught.value.diagnostics
    assert "`strange` is 1" in found.label
