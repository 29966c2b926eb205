"""The small model of `moec verify`: every construct of the large one, at sizes a test can run."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from moec import dsl, models
from moec.compiler.small import small_model, small_spec
from moec.dsl.parameters import count, model_parameters
from moec.dsl.spec import Gqa, Moe, Spec
from small_models import VARIANTS, small_text


def shape_of(value: Any) -> Any:
    """What a spec says but for its sizes: classes, and whatever is not a width or a count of heads."""
    free = {"width", "heads", "kv_heads", "head_dim", "window", "vocab", "context", "init_std", "origin"}
    if is_dataclass(value) and not isinstance(value, type):
        kept = {
            field.name: shape_of(getattr(value, field.name))
            for field in fields(value)
            if field.name not in free
        }
        given = sorted(name for name in free if getattr(value, name, None) is not None)
        return type(value).__name__, kept, given
    if isinstance(value, tuple):
        return tuple(map(shape_of, value))
    return value


def spec_of(name: str) -> Spec:
    """A shipped model, or a variant."""
    return dsl.load(name, (), models.read) if name in models.names() else dsl.load_text(small_text(name))


NAMES = [*models.names(), *VARIANTS]


@pytest.mark.parametrize("name", NAMES)
def test_every_construct_is_kept(name: str) -> None:
    """Components, router stages, balance terms, norms, clips, windows, biases; experts by number."""
    model = spec_of(name).model
    small = small_model(model)
    old, new = ({str(shape_of(layer)) for layer in m.layers} for m in (model, small))
    assert old == new
    assert shape_of(small.head) == shape_of(model.head)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_same_by_path(name: str) -> None:
    spec = spec_of(name)
    small = small_model(spec.model)
    paths = {parameter.path for _, parameter in model_parameters(spec.model)}
    assert {parameter.path for _, parameter in model_parameters(small)} == paths
    assert count(small)[0] < 2_000_000


@pytest.mark.parametrize("name", models.names())
def test_ratios_that_change_the_program_are_kept(name: str) -> None:
    """Queries that share a key still do; what a window hides is still hidden."""
    large = dsl.load(name, (), models.read).model
    for old, new in zip(large.layers, small_model(large).layers, strict=False):
        for before, after in zip(components(old), components(new), strict=True):
            if isinstance(before, Gqa) and isinstance(after, Gqa):
                assert (after.heads == after.kv_heads) == (before.heads == before.kv_heads)
            if isinstance(before, Moe) and isinstance(after, Moe):
                assert (after.experts, after.top_k) == (before.experts, before.top_k)


def components(layer: Any) -> list[Any]:
    found = []
    for equation in layer.equations:
        expression = equation.value
        while hasattr(expression, "component"):
            found.append(expression.component)
            expression = expression.argument
    return found


def test_a_window_stays_shorter_than_the_sequence() -> None:
    model = small_model(dsl.load_text(small_text("window", attention="window: 12")).model)
    windows = [c.window for layer in model.layers for c in components(layer) if isinstance(c, Gqa)]
    assert windows == [6, 6]


def test_two_layers_of_every_kind_are_kept() -> None:
    """So that something is carried from layer to layer."""
    text = small_text("dense layers", layers="9", ffn="match layer { 1 => dense, 5 => dense, _ => experts }")
    assert len(small_model(dsl.load_text(text).model).layers) == 4


@pytest.mark.parametrize("ranks", [1, 3, 8])
@pytest.mark.parametrize("micro_batches", ["1", "2"])
def test_the_batch_does_not_divide(ranks: int, micro_batches: str) -> None:
    """Some rank gets a sequence less than another."""
    spec = dsl.load_text(small_text(micro_batches=micro_batches, sequences="4"))
    train = small_spec(spec, ranks).train
    each = train.batch_sequences // train.micro_batches
    assert train.batch_sequences % train.micro_batches == 0
    assert train.micro_batches == int(micro_batches)
    assert ranks == 1 or (each % ranks and each > ranks)


def test_nothing_else_of_a_spec_changes() -> None:
    spec = dsl.load_text(small_text())
    small = small_spec(spec, 2)
    unchanged = replace(small, model=spec.model, train=spec.train)
    assert unchanged == spec
    assert replace(small.train, sequence=6, batch_tokens=spec.train.batch_tokens) == spec.train
