"""Lists of a config.json with an entry a layer, and lists, spellings and nulls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsl_configs import CONFIG, TEXT
from dsl_texts import codes, edited, errors, load
from moec import dsl
from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m

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


def test_work_over_all_layers_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DECISIONS", 5)  # the match of the model has two arms over two layers
    assert codes(errors(LAYERED)) == {c.TOO_LARGE.code}


scalars = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5)
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)


def _imported(config: dict[str, object]) -> tuple[str, dsl.Spec | None]:
    """What is wrong, or the spec."""
    try:
        spec = load(LAYERED, *dsl.checkpoint_overrides(config, load(LAYERED)))
        dsl.check_config(config, spec)
    except dsl.SourceErrors as found:
        return dsl.render_text(found.diagnostics), None
    return "", spec


@given(
    changes=st.dictionaries(
        st.sampled_from([*LAYERED_CONFIG, "new", "depth"]) | st.text(max_size=8), anything
    )
)
def test_any_file_gives_a_model_or_mistakes(changes: dict[str, object]) -> None:
    """A model that an import gives, an export describes: importing that gives the same model."""
    config = {**LAYERED_CONFIG, **changes}
    message, spec = _imported(config)
    assert all(line.isprintable() for line in message.splitlines())
    if spec is None:
        return
    exported = dsl.checkpoint_config(spec)
    again = load(LAYERED, *dsl.checkpoint_overrides(exported, load(LAYERED)))
    dsl.check_config(exported, again)
    assert again.model == spec.model
