"""The small model of `moec verify`: every construct of the large one, at sizes a test can run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from moec import dsl, models
from moec.compiler.small import small_model, small_spec
from moec.dsl.parameters import count, model_parameters
from moec.dsl.spec import (
    NOWHERE,
    Attend,
    BalanceTerm,
    Call,
    Component,
    DynamicNtk,
    Embed,
    Equation,
    Expression,
    Ffn,
    Gqa,
    Head,
    Layer,
    LogTemperature,
    LongRope,
    Mla,
    ModelSpec,
    Moe,
    Origin,
    OutputGate,
    QkNorm,
    RmsNorm,
    Rope,
    RopeScaling,
    RouterStage,
    Scaled,
    SharedExperts,
    Spec,
    Sum,
    Var,
)
from small_models import VARIANTS, small_text

FREE: dict[type, set[str]] = {
    ModelSpec: {"vocab", "width", "context", "layers", "init_std"},
    Gqa: {"heads", "kv_heads", "head_dim", "value_dim"},
    Mla: {"heads", "q_rank", "kv_rank", "nope_dim", "rope_dim", "value_dim"},
    Rope: {"dims"},
    DynamicNtk: {"original"},
    LongRope: {"short", "long", "original"},
    Attend: {"window", "chunk"},
    LogTemperature: {"period"},
    Ffn: {"width"},
    Moe: {"latent"},
}
"""The fields that are sizes. All others say what is computed."""


def assert_kept(old: Any, new: Any) -> None:
    """`new` says the same as `old` but for its sizes, and has those that `old` has."""
    assert type(old) is type(new)
    if isinstance(old, tuple):
        assert len(old) == len(new)
        for before, after in zip(old, new, strict=True):
            assert_kept(before, after)
    elif is_dataclass(old):
        for field in fields(old):
            before, after = getattr(old, field.name), getattr(new, field.name)
            if field.name not in FREE.get(type(old), ()):
                assert_kept(before, after)
            elif isinstance(before, int | float):
                assert after is not None, field.name
                assert type(after) is type(before), field.name
                assert after > 0, field.name
            else:
                assert type(before) is type(after), field.name
    else:
        assert old == new


def kinds(model: ModelSpec) -> list[Layer]:
    """One layer of every kind, and of those that differ in sizes only the first."""
    return list(dict.fromkeys(model.layers))


def spec_of(name: str) -> Spec:
    """A shipped model, or a variant."""
    return dsl.load(name, (), models.read) if name in models.names() else dsl.load_text(small_text(name))


NAMES = [*models.names(), *VARIANTS]


@pytest.mark.parametrize("name", NAMES)
def test_every_construct_is_kept(name: str) -> None:
    """Of a model: its layers, embedding and head; experts and choices by number."""
    spec = spec_of(name)
    small = small_model(replace(spec.model, layers=tuple(kinds(spec.model))), spec.train.sequence)
    assert_kept(spec.model, small)
    for old, new in zip(kinds(spec.model), small.layers, strict=True):
        assert_kept(old, new)


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_the_same_by_path(name: str) -> None:
    spec = spec_of(name)
    small = small_model(spec.model, spec.train.sequence)
    paths = {parameter.path for _, parameter in model_parameters(spec.model)}
    assert {parameter.path for _, parameter in model_parameters(small)} == paths
    assert count(small)[0] < 4_000_000


# --- the whole vocabulary ---

SIMPLE: dict[Any, list[Any]] = {
    int: [64], float: [0.5], bool: [True, False], str: ["name"], type(None): [None], Origin: [NOWHERE],
}  # fmt: skip


def values_of(hint: Any) -> list[Any]:
    """Some values of a type, together of every alternative."""
    if hint in SIMPLE:
        return SIMPLE[hint]
    if is_dataclass(hint):
        return instances(hint)
    arguments = get_args(hint)
    if get_origin(hint) is Literal:
        return list(arguments)
    if get_origin(hint) is tuple:
        return [tuple(values_of(arguments[0]))]
    return [value for argument in arguments for value in values_of(argument)]


def instances(kind: Any) -> list[Any]:
    """Instances of a frozen class: every value of every field is in one of them."""
    hints = get_type_hints(kind)
    choices = {field.name: values_of(hints[field.name]) for field in fields(kind)}
    return [
        kind(**{name: values[i % len(values)] for name, values in choices.items()})
        for i in range(max(map(len, choices.values())))
    ]


def everything() -> ModelSpec:
    """A model with every class of the specification and every value of its fields; it need not compute."""
    layers = []
    for component in (c for kind in get_args(Component) for c in instances(kind)):
        call = Call("path", component, Var("x"))
        value = Sum((call, Scaled(0.5, Call("other", component, Var("h")))))
        layers.append(Layer((Equation("h", False, call), Equation("x", True, value))))
    norm = Call("norm", RmsNorm(1e-6), Var("x"))
    return ModelSpec(
        "everything", 64, 64, 64, tuple(layers), Head(norm, True, True, 2.0, 30.0), Embed(3.0, norm)
    )


def found_in(value: Any) -> Iterator[Any]:
    """Every dataclass instance in a value."""
    if isinstance(value, tuple):
        for part in value:
            yield from found_in(part)
    elif is_dataclass(value):
        yield value
        for field in fields(value):
            yield from found_in(getattr(value, field.name))


def test_every_class_of_the_specification_is_kept() -> None:
    """With every choice of every field, whatever is added to the language."""
    model = everything()
    for old, new in zip(model.layers, small_model(model, 64).layers, strict=True):
        assert_kept(old, new)
    present = {type(value) for value in found_in(model)}
    unions = (Component, RopeScaling, RouterStage, BalanceTerm, Expression)
    assert present >= {kind for union in unions for kind in get_args(union)}
    assert present >= {QkNorm, LogTemperature, OutputGate, SharedExperts, Attend}


def test_free_fields_are_of_their_classes() -> None:
    for kind, names in FREE.items():
        assert names <= {field.name for field in fields(kind)}


@pytest.mark.parametrize("name", models.names())
def test_ratios_that_change_the_program_are_kept(name: str) -> None:
    """Queries that share a key still do."""
    large = spec_of(name)
    for old, new in zip(
        large.model.layers, small_model(large.model, large.train.sequence).layers, strict=False
    ):
        for before, after in zip(old.calls(), new.calls(), strict=True):
            if isinstance(before.component, Gqa) and isinstance(after.component, Gqa):
                shares = [gqa.heads == gqa.kv_heads for gqa in (before.component, after.component)]
                assert shares[0] == shares[1]


def small_gqa(**changes: Any) -> Gqa:
    """What a model's gqa of 64 dims a head becomes, for sequences of 100 tokens."""
    gqa = Gqa(heads=8, kv_heads=4, head_dim=64, value_dim=64, rope=Rope(1e4))
    layer = Layer((Equation("x", True, Call("a", replace(gqa, **changes), Var("x"))),))
    model = ModelSpec("m", 9, 512, 512, (layer,), Head(Var("x")))
    (call,) = small_model(model, 100).layers[0].calls()
    assert isinstance(call.component, Gqa)
    return call.component


def test_windows_and_chunks_are_shorter_than_the_sequence() -> None:
    """So that they hide something; a chunk begins anew within it, and not only at its end."""
    attend = small_gqa(attend=Attend(window=4096, chunk=8192)).attend
    assert (attend.window, attend.chunk) == (6, 5)
    attend = small_gqa(attend=Attend(window=3, chunk=2)).attend
    assert (attend.window, attend.chunk) == (3, 2)


@pytest.mark.parametrize(("dims", "small"), [(None, None), (64, 8), (32, 4), (62, 6), (2, 2)])
def test_a_part_of_a_head_stays_a_part(dims: int | None, small: int | None) -> None:
    """Even, and all of it only if it was all."""
    rope = small_gqa(rope=Rope(1e4, dims)).rope
    assert rope is not None
    assert rope.dims == small


def test_longrope_has_a_factor_for_every_pair() -> None:
    for dims, pairs in ((None, 4), (32, 2)):
        numbers = tuple(map(float, range((dims or 64) // 2)))
        rope = small_gqa(rope=Rope(1e4, dims, scaling=LongRope(numbers, numbers, 64))).rope
        assert rope is not None
        assert isinstance(rope.scaling, LongRope)
        assert len(rope.scaling.short) == len(rope.scaling.long) == pairs
        assert len(set(rope.scaling.short)) == pairs


@pytest.mark.parametrize("original", [99, 100])
def test_a_sequence_stays_on_its_side_of_the_original_length(original: int) -> None:
    """The large sequences have 100 tokens, the small ones 12."""
    numbers = tuple(map(float, range(32)))
    for scaling in (LongRope(numbers, numbers, original), DynamicNtk(2.0, original)):
        rope = small_gqa(rope=Rope(1e4, scaling=scaling)).rope
        assert rope is not None
        assert isinstance(rope.scaling, LongRope | DynamicNtk)
        assert (rope.scaling.original < 12) == (original < 100)


def test_two_layers_of_every_kind_are_kept() -> None:
    """So that something is carried from layer to layer."""
    text = small_text("dense layers", layers="9", ffn="match layer { 1 => dense, 5 => dense, _ => experts }")
    assert len(small_model(dsl.load_text(text).model, 12).layers) == 4


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
