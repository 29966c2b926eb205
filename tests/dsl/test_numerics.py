"""What a text says of losses that are not sound."""

from __future__ import annotations

import pytest

from dsl_texts import SMALL, codes, errors, load
from moec.dsl import catalogue as c
from moec.dsl import spec as m


@pytest.mark.parametrize(
    ("text", "nonfinite", "spike"),
    [
        ("", m.OnNonfinite(), m.OnSpike()),
        ("nonfinite = skip, spike = warn", m.OnNonfinite("skip", 10), m.OnSpike("warn", 3.0)),
        (
            "nonfinite = skip(most: 2), spike = skip(factor: 1.5, most: 4)",
            m.OnNonfinite("skip", 2),
            m.OnSpike("skip", 1.5, 4),
        ),
        (
            "checkpoint = saved, nonfinite = rewind, spike = rewind(factor: 5)",
            m.OnNonfinite("rewind", 3),
            m.OnSpike("rewind", 5.0, 3),
        ),
        ("nonfinite = stop, spike = none", m.OnNonfinite("stop"), m.OnSpike("none")),
    ],
)
def test_policies(text: str, nonfinite: m.OnNonfinite, spike: m.OnSpike) -> None:
    train = load(SMALL + f"train {{ {text} }}\n").train
    assert (train.nonfinite, train.spike) == (nonfinite, spike)


def test_a_rewind_needs_checkpoints_and_batches_to_spare() -> None:
    for setting in ("nonfinite", "spike"):
        for others in ("checkpoint = none", "epochs = 2, checkpoint = saved(every: 10)"):
            text = SMALL + f"train {{ {others}, {setting} = rewind(most: 1) }}\n"
            assert codes(errors(text)) == {c.NOTHING_TO_REWIND_TO.code}


@pytest.mark.parametrize("value", ["warn(most: 2)", "stop", "2", "skip(most: 0)", "rewind(factor: none)"])
def test_what_is_no_policy_for_a_spike(value: str) -> None:
    assert errors(SMALL + f"train {{ checkpoint = saved, spike = {value} }}\n")


@pytest.mark.parametrize("value", ["none", "warn", "skip(most: -1)", "stop(most: 3)"])
def test_what_is_no_policy_for_numbers_that_are_none(value: str) -> None:
    assert errors(SMALL + f"train {{ nonfinite = {value} }}\n")
