"""Numbers: literals, names, roots, products and quotients, exactly."""

from __future__ import annotations

from fractions import Fraction
from math import prod, sqrt

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_texts import SMALL, codes, edited, errors, load, tree
from moec import dsl
from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl.check.values import Scope, plain
from moec.dsl.syntax import Expr


def _expr(text: str) -> Expr:
    (item,) = tree(f"model m {{ a = {text} }}").items
    assert hasattr(item, "settings")
    value: Expr = item.settings()[0].value
    return value


def _value(text: str, **names: str) -> Fraction:
    return plain(_expr(text), Scope({name: _expr(value) for name, value in names.items()}), "a number")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 * 3", Fraction(6)),
        ("1 / 3", Fraction(1, 3)),
        ("12 / 2 / 3", Fraction(2)),
        ("12 / (2 / 3)", Fraction(18)),
        ("2 * 3 / 4 * 5", Fraction(15, 2)),
        ("sqrt(4096)", Fraction(64)),
        ("sqrt(9 / 4)", Fraction(3, 2)),
        ("sqrt(2)", Fraction(sqrt(2))),
        ("sqrt(0)", Fraction(0)),
        ("0.1 * 3", Fraction(3, 10)),
        ("2 * 1K", Fraction(2000)),
        ("-2 * 3", Fraction(-6)),
        ("a * b", Fraction(6)),
        ("sqrt(a * b * 6)", Fraction(6)),
    ],
)
def test_a_number_is_worked_out_exactly(text: str, value: Fraction) -> None:
    assert _value(text, a="2", b="3 * one", one="1") == value


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("*/"), st.integers(1, 10**6)), min_size=1, max_size=12))
def test_products_and_quotients_go_from_left_to_right(steps: list[tuple[str, int]]) -> None:
    text = "1" + "".join(f" {operator} {number}" for operator, number in steps)
    expected = prod(
        (Fraction(n) if operator == "*" else Fraction(1, n) for operator, n in steps), start=Fraction(1)
    )
    assert _value(text) == expected


@pytest.mark.parametrize("text", ["sqrt(-1)", "1 / 0", "2 / (3 - 3)", "sqrt(1, 2)", "sqrt(x: 1)", "2 * none"])
def test_no_number(text: str) -> None:
    found = errors(edited(SMALL, "kv_heads: 2", f"clip: {text}"))
    assert codes(found) <= {c.OUT_OF_RANGE.code, c.WRONG_TYPE.code, c.SYNTAX.code, c.BAD_CHARACTER.code}


def test_a_number_stands_wherever_one_is_expected() -> None:
    """Whole or not, in the model and its layers, under a name or as it is."""
    text = edited(SMALL, "    norm ", "    half = width / 2\n    tiny = 1e-5\n    norm ")
    text = edited(text, "eps: 1e-5", "eps: tiny")
    text = edited(
        text,
        "heads: 4, kv_heads: 2",
        "heads: 8 / 2, kv_heads: sqrt(4), head_dim: half, scale: 2 / sqrt(half)",
    )
    text = edited(text, "4 of swiglu(96)", "2 * 2 of swiglu(3 * half)")
    text = edited(text, "layers 2", "layers two").replace("    norm ", "    two = 4 / 2\n    norm ", 1)
    model = load(text).model
    (attention, experts) = (call.component for call in model.layers[0].calls() if "." not in call.path)
    assert isinstance(attention, m.Gqa)
    assert isinstance(experts, m.Moe)
    assert len(model.layers) == 2
    assert (attention.heads, attention.kv_heads, attention.head_dim) == (4, 2, 32)
    assert attention.attend.scale == pytest.approx(2 * 32**-0.5, rel=1e-15)
    assert (experts.experts, experts.expert.width) == (4, 96)
    assert model.head.argument == m.Call("norm", m.RmsNorm(1e-5), m.Var("x"))


def test_names_of_numbers_are_replaced_from_outside() -> None:
    text = edited(SMALL, "    norm ", "    ratio = 2\n    norm ")
    text = edited(text, "kv_heads: 2", "kv_heads: 4 / ratio")

    def kv_heads(*overrides: str) -> int:
        component = next(load(text, *overrides).model.layers[0].calls()).component
        call = next(c for c in load(text, *overrides).model.layers[0].calls() if c.path == "attention")
        assert component
        assert isinstance(call.component, m.Gqa)
        return call.component.kv_heads

    assert kv_heads() == 2
    assert kv_heads("ratio=4") == 1
    assert kv_heads("ratio=2 * sqrt(4)") == 1
    assert codes(errors(text, "ratio=3")) == {c.WRONG_TYPE.code}


@pytest.mark.parametrize(
    ("bindings", "kind"),
    [
        ("a = 2 * a", c.CIRCULAR),
        ("a = 2 * b, b = c / 2, c = sqrt(a)", c.CIRCULAR),
        ("a = b, b = a", c.CIRCULAR),
        ("a = moe(experts: 2 of a, router: top(1))", c.CIRCULAR),
        (", ".join(f"a{i} = 2 * a{i + 1}" for i in range(20)) + ", a20 = 1", c.TOO_DEEP),
        ("a = " + " * ".join(["1e300"] * 40), c.TOO_LARGE),
        ("a = " + " * ".join(["1.000_000_1"] * 4000), c.TOO_LARGE),
        ("a = 2 * missing", c.UNKNOWN_NAME),
        ("a = 2 * norm", c.UNKNOWN_NAME),
        ("a = 2 * 4KiB * 3", c.WRONG_UNIT),
        ("a = [1, 2, none]", c.WRONG_TYPE),
    ],
)  # fmt: skip
def test_bindings_that_are_no_numbers(bindings: str, kind: dsl.Kind) -> None:
    found = errors(edited(SMALL, "    norm ", f"    {bindings}\n    norm "))
    assert codes(found) == {kind.code}
    assert len(found) == 1


def test_a_stage_or_a_word_that_is_the_name_of_a_binding_makes_no_circle() -> None:
    text = edited(SMALL, "    norm ", "    gqa = gqa(heads: 4)\n    norm ")
    text = edited(text, "experts   =", "softmax   =").replace("experts(norm(x))", "softmax(norm(x))")
    assert load(text).model.layers
