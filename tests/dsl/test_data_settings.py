"""What a text says of documents in a sequence and of held-out data."""

from __future__ import annotations

import pytest

from dsl_texts import SMALL, load
from moec import dsl
from moec.dsl.spec import Evaluated, TrainSpec
from moec.dsl.written import settings


def train(*overrides: str, text: str = SMALL) -> TrainSpec:
    return load(text, *overrides).train


def test_documents_are_joined_unless_a_text_says_separate() -> None:
    assert train().documents == "joined"
    assert train(text=SMALL + "train { documents = separate }\n").documents == "separate"
    assert train("train.documents=separate").documents == "separate"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("none", None),
        ("evaluated", Evaluated(500, 20)),
        ("evaluated(every: 7)", Evaluated(7, 20)),
        ("evaluated(every: 7, batches: 3)", Evaluated(7, 3)),
    ],
)
def test_validation_is_none_or_evaluated(value: str, expected: Evaluated | None) -> None:
    assert train().validation is None
    assert train(text=SMALL + f"train {{ validation = {value} }}\n").validation == expected
    assert train(f"train.validation={value}").validation == expected


def test_a_path_into_validation_asks_for_it() -> None:
    assert train("train.validation.every=9").validation == Evaluated(9, 20)
    assert train("train.validation.batches=2", "train.validation.every=9").validation == Evaluated(9, 2)


def test_they_are_facts_and_survive_being_written_out() -> None:
    spec = load(SMALL, "train.documents=separate", "train.validation.every=9")
    facts = {fact.path: fact.value for fact in settings(spec)}
    assert facts["train.documents"] == "separate"
    assert facts["train.validation.every"] == "9"
    again = dsl.load_text(dsl.explicit_text(spec), "again.moe")
    assert again.train == spec.train
