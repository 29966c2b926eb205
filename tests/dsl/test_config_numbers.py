"""Lists of a config.json whose entries are numbers that names of the model are bound to."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dsl_configs import CONFIG, TEXT
from dsl_texts import codes, edited, errors, load
from moec import dsl
from moec.dsl import catalogue as c
from moec.dsl import spec as m

NUMBERED = edited(
    edited(
        TEXT,
        "attention = gqa(heads: 4,",
        "attention = gqa(heads: match layer { full_layers => full_heads, _ => heads }, head_dim: 16,",
    ),
    "    norm      = rms",
    "    full_layers = every(2)\n    full_heads = 6\n    heads = 4\n    none_here = [0]\n    share = 0.5\n"
    "    norm      = rms",
)
# The numbers stand before the kinds that say which layers they are for.
NUMBERED = edited(
    NUMBERED,
    '        kinds            = each_layer("full")\n',
    """
        heads  = match layer { full_layers => full_heads, _ => heads }
        kinds  = match layer { full_layers => "full", _ => "sliding" }
        shares = match layer { none_here => 0, _ => share } else none
""",
)
CONFIG_OF_NUMBERS = {key: value for key, value in CONFIG.items() if key != "kinds"} | {
    "heads": [2, 2, 8],
    "kinds": ["sliding", "sliding", "full"],
    "shares": [0.25, 0, 0.25],
}


def _imported(**changes: object) -> dsl.Spec:
    config = {key: value for key, value in (CONFIG_OF_NUMBERS | changes).items() if value != "absent"}
    spec = load(NUMBERED, *dsl.checkpoint_overrides(config, load(NUMBERED)))
    dsl.check_config(config, spec)
    return spec


def _heads(spec: dsl.Spec) -> list[int]:
    calls = [layer.equations[0].value for layer in spec.model.layers]
    return [
        call.component.heads
        for call in calls
        if isinstance(call, m.Call) and isinstance(call.component, m.Gqa)
    ]


def test_a_name_becomes_the_number_of_its_layers() -> None:
    spec = _imported()
    assert _heads(spec) == [2, 2, 8]
    found = dsl.checkpoint_config(spec)
    assert found == CONFIG_OF_NUMBERS
    assert [type(x) for x in found["shares"]] == [float, int, float]  # type: ignore[attr-defined]


def test_a_name_of_no_layer_stays_what_it_is() -> None:
    spec = _imported(heads=[2, 2, 2], kinds=["sliding"] * 3)
    assert _heads(spec) == [2, 2, 2]
    assert "full_heads  = 6" in spec.text


def test_export_writes_the_number_of_every_layer() -> None:
    spec = load(NUMBERED, "layers=5", "full_layers=[0]", "heads=2 * 4", "share=1e1")
    found = dsl.checkpoint_config(spec)
    assert found["heads"] == [6, 8, 8, 8, 8]
    assert found["shares"] == [0, 10.0, 10.0, 10.0, 10.0]
    assert [type(found[key][1]) for key in ("heads", "shares")] == [int, float]  # type: ignore[index]


def test_a_list_may_be_left_out_only_with_a_default() -> None:
    assert dsl.checkpoint_config(_imported(shares="absent"))["shares"] == [0, 0.5, 0.5]
    assert dsl.checkpoint_config(_imported(shares=None))["shares"] == [0, 0.5, 0.5]
    with pytest.raises(dsl.SourceErrors) as caught:
        _imported(heads="absent")
    (found,) = caught.value.diagnostics
    assert found.code == c.CONFIG_MISSING.code
    assert found.label == "`heads` is missing"


FAULTS: dict[str, tuple[dict[str, object], c.Kind, str]] = {
    "two numbers for one name": (
        {"heads": [2, 4, 8]}, c.CONFIG_MISMATCH, "`heads` has 2 for layer 0 and 4 for layer 1",
    ),
    "true is not 1": ({"shares": [1, 0, True]}, c.CONFIG_VALUE, "has True for layer 2; expected a number"),
    "too few": ({"heads": [2, 2]}, c.CONFIG_MISMATCH, "`heads` has 2 entries; this model has 3 layers"),
    "no list": ({"heads": 4}, c.CONFIG_VALUE, "`heads` is 4; expected a list"),
    "no numbers": ({"heads": ["a", "a", 8]}, c.CONFIG_VALUE, "has 'a' for layer 0; expected a number"),
    "no heads": ({"heads": [0, 0, 8]}, c.OUT_OF_RANGE, ""),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "message"), FAULTS.values(), ids=FAULTS)
def test_fault_of_a_list(change: dict[str, object], kind: c.Kind, message: str) -> None:
    with pytest.raises(dsl.SourceErrors) as caught:
        _imported(**change)
    assert codes(caught.value.diagnostics) == {kind.code}
    assert message in caught.value.diagnostics[0].label


def test_a_pattern_that_no_list_sets_is_checked_like_any_other() -> None:
    """The mistake is in the text, at the layers it names."""
    text = edited(NUMBERED, "none_here = [0]", "none_here = 5..9")
    assert codes(errors(text)) == {c.LAYER_OUT_OF_RANGE.code}
    text = edited(NUMBERED, "none_here => 0,", "none_here => 0, 2 => 1,")
    few = {**CONFIG_OF_NUMBERS, "n_layers": 2, "heads": [2, 2], "kinds": ["sliding"] * 2, "shares": [0, 1]}
    overrides = dsl.checkpoint_overrides(few, load(text, "layers=3"))
    assert codes(errors(text, *overrides)) == {c.LAYER_OUT_OF_RANGE.code}


@given(of=st.lists(st.tuples(st.booleans(), st.sampled_from([2, 2, 4, 8])), min_size=1, max_size=6))
def test_any_list_is_a_model_or_a_mistake(of: list[tuple[bool, int]]) -> None:
    """It is a model if layers of one kind have one number, and the model has these numbers."""
    heads = [number for _, number in of]
    kinds = ["full" if full else "sliding" for full, _ in of]
    config = {**CONFIG_OF_NUMBERS, "n_layers": len(of), "heads": heads, "kinds": kinds, "shares": None}
    one_each = all(len({number for full, number in of if full is kind}) <= 1 for kind in (True, False))
    if not one_each:
        with pytest.raises(dsl.SourceErrors) as caught:
            dsl.checkpoint_overrides(config, load(NUMBERED))
        assert codes(caught.value.diagnostics) == {c.CONFIG_MISMATCH.code}
        return
    spec = load(NUMBERED, *dsl.checkpoint_overrides(config, load(NUMBERED)))
    assert _heads(spec) == heads
    assert dsl.checkpoint_config(spec)["heads"] == heads
