"""Hostile and absurd texts: diagnostics, never another exception, and nothing grows with the numbers."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_texts import SMALL, codes, edited, errors, load
from moec import dsl, models
from moec.dsl import catalogue as c
from moec.dsl import limits

TINY = (models.read("tiny") or ("", ""))[1]
ROUTER = "softmax | top(2) | renormalize"

HOSTILE = {
    "many brackets": ("model m { a = " + "(" * 500_000, c.TOO_LARGE),
    "deep brackets": ("model m {\n a = " + "[" * 200 + "]" * 200 + "\n}", c.TOO_DEEP),
    "deep calls": (edited(SMALL, "norm(x)", "norm(" * 100 + "x" + ")" * 100), c.TOO_DEEP),
    "digits": (edited(SMALL, "64", "9" * 1_000_000), c.BAD_NUMBER),
    "large exponent": (edited(SMALL, "64", "1e999999999"), c.BAD_NUMBER),
    "large number": (edited(SMALL, "64", "1e300"), c.OUT_OF_RANGE),
    "small number": (edited(SMALL, "1e-5", "1e-300"), None),
    "long name": ("a" * 1_000_000, c.TOO_LARGE),
    "long string": ('use "' + "a" * 1_000_000 + '"', c.TOO_LARGE),
    "open strings": ('"\n' * 10_000, c.OPEN_STRING),
    "many lines": ("x\n" * 400_000, c.TOO_LARGE),
    "control characters": ("\x00 " * 500_000, c.BAD_CHARACTER),
    "lone surrogate": ("\ud800", c.BAD_CHARACTER),
    "long pipeline": (edited(SMALL, ROUTER, "softmax | " * 9_000 + "top(2)"), c.BAD_ROUTER),
    "many arguments": (edited(SMALL, "heads: 4", ", ".join(["heads: 4"] * 3_000)), c.TOO_LARGE),
    "many arms": (
        edited(SMALL, "experts(norm(x))", "match layer {" + "0 => experts\n" * 3_000 + "}(x)"),
        c.TOO_LARGE,
    ),
    "many equations": (edited(SMALL, "x += experts", "x += x\n" * 3_000 + "x += experts"), c.TOO_LARGE),
    "long list": (edited(SMALL, "    norm  ", f"    a = [{'1, ' * 12_000}]\n    norm  "), c.TOO_LARGE),
    "many matches": (
        edited(
            edited(SMALL, "layers 2", "layers 10_000"),
            "    norm  ",
            "".join(f"    g{i} = swiglu(match layer {{ every({i + 2}) => 1, _ => 2 }})\n" for i in range(60))
            + "    norm  ",
        ),
        c.TOO_LARGE,
    ),
    "many kinds of layers": (
        edited(
            edited(SMALL, "layers 2", "layers 4_000"),
            "4 of swiglu(96)",
            "4 of swiglu("
            + " * ".join(
                "match layer { " + ", ".join(f"every({n}, offset: {i}) => {i + 1}" for i in range(n)) + " }"
                for n in (11, 13, 17, 19)
            )
            + ")",
        ),
        c.TOO_LARGE,
    ),
    "long product": (edited(SMALL, "96", " * ".join(["1.5"] * 9_000)), c.TOO_LARGE),
    "long sum": (edited(SMALL, "x += attention", "x += " + "x + " * 9_000 + "attention"), None),
    "bindings in a long row": (
        edited(
            SMALL,
            "    norm  ",
            "".join(f"    a{i} = a{i + 1} * a{i + 1}\n" for i in range(2_000)) + "    a2000 = 2\n    norm  ",
        ),
        c.TOO_DEEP,
    ),
    "components in a long row": (
        edited(
            SMALL,
            "    norm  ",
            "".join(f"    a{i} = moe(experts: 2 of a{i + 1}, router: softmax | top(1))\n" for i in range(900))
            + "    a900 = swiglu(1)\n    norm  ",
        ),
        c.TOO_DEEP,
    ),
    "many layers": (edited(SMALL, "layers 2", "layers 10_001"), c.OUT_OF_RANGE),
    "many experts": (edited(SMALL, "4 of", "65_537 of"), c.OUT_OF_RANGE),
    "large vocabulary": (edited(SMALL, "320", "16_777_217"), c.OUT_OF_RANGE),
    "huge model": (
        edited(edited(SMALL, "layers 2", "layers 10_000"), "4 of swiglu(96)", "65_536 of swiglu(1_000_000)"),
        c.TOO_MANY_PARAMETERS,
    ),
    "huge weight map": (edited(edited(TINY, "layers 4", "layers 10_000"), "8 of", "65_536 of"), c.TOO_LARGE),
    "large batch": (SMALL + "train { batch = 1_000P tokens }\n", c.OUT_OF_RANGE),
    "text too long": ("#" * (limits.FILE_BYTES + 1), c.NOT_TEXT),
    "nothing": ("", c.NO_MODEL),
}


@pytest.mark.parametrize(("text", "kind"), HOSTILE.values(), ids=HOSTILE)
def test_answer(text: str, kind: c.Kind | None) -> None:
    if kind is None:
        load(text)
        return
    found = errors(text)
    assert kind.code in codes(found)
    assert len(found) <= limits.DIAGNOSTICS
    assert len(dsl.render_text(found)) < 100_000


_INNER = limits.NESTING - 2  # of brackets that an equation can have inside of `model {` and `layers {`

DEEP = {
    "calls": ("norm(" * _INNER, "x", ")" * _INNER),
    "sums of products": ("x + 2 * (" * _INNER, "x + x", ")" * _INNER),
    "matches": ("x + 2 * match layer { _ => " * _INNER, "x", " }" * _INNER),
    "calls of matches": (
        "match layer { 0 => norm, _ => attention }(" * _INNER, "x", ")" * _INNER
    ),
}  # fmt: skip


@pytest.mark.parametrize(("start", "middle", "end"), DEEP.values(), ids=DEEP)
def test_the_deepest_equation_is_answered(start: str, middle: str, end: str) -> None:
    text = edited(SMALL, "attention(norm(x))", f"{start}{middle}{end}")
    _accept_or_explain(text)
    formatted = dsl.format_text(text)
    assert dsl.format_text(formatted) == formatted
    deeper = edited(SMALL, "attention(norm(x))", f"({start}{middle}{end})")
    assert codes(errors(deeper)) == {c.TOO_DEEP.code}


@pytest.mark.parametrize("opening", ["({})", "[{}]", "f(a: {})", "match layer {{ _ => {} }}", "sqrt({})"])
def test_the_deepest_binding_is_answered(opening: str) -> None:
    """With as many kinds of expression between two brackets as can stand there."""
    value = "match layer { _ => x }" if "match" not in opening else "x"
    depth = limits.NESTING - 1 - value.count("{")
    for _ in range(depth):
        value = "a | b + 2 * c of 3 * " + opening.format(value)
    text = edited(SMALL, "    norm  ", f"    deep = {value}\n    norm  ")
    assert c.TOO_DEEP.code not in codes(errors(text))
    formatted = dsl.format_text(text)
    assert dsl.format_text(formatted) == formatted


def test_the_largest_legal_model_is_held_once_per_kind_of_layer() -> None:
    """Ten thousand layers are ten thousand references to one object."""
    spec = load(edited(edited(SMALL, "layers 2", "layers 10_000"), "4 of", "65_536 of"))
    assert len(spec.model.layers) == 10_000
    assert len({id(layer) for layer in spec.model.layers}) == 1


@pytest.mark.parametrize("name", models.names())
def test_shipped_models_hold_every_kind_of_layer_once(name: str) -> None:
    layers = dsl.load(name, find_model=models.read).model.layers
    assert len({id(layer) for layer in layers}) == len(set(layers)) <= 3


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200))
def test_any_text_gives_diagnostics(text: str) -> None:
    _accept_or_explain(text)


PIECES = st.sampled_from(
    [
        "0", "-1", "1e300", "0.5", "4M", "80GiB", "none", "rest", "true", "x", "norm", "experts", "é",
        "swiglu(1)", "3 of swiglu(2)", "[]", "[0, 9]", "()", "{", "}", "(", ")", "[", "]", "|", "+", "\x00",
        "=>", "..", ".", ":", "=", "+=", ",", "\n", '"', '"{}"', "#", "match layer", "of", "else", "use",
        "layers", "every(2)",
    ]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.data())
def test_any_edit_of_a_model_gives_a_model_or_diagnostics(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([SMALL, TINY]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 12)))
        text = text[:start] + data.draw(PIECES) + text[end:]
    _accept_or_explain(text)


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.from_regex(r"[a-z]+(\.[a-z]+){0,3}=[^\n]{0,12}", fullmatch=True))
def test_any_override_gives_a_model_or_diagnostics(override: str) -> None:
    try:
        load(SMALL, override)
    except dsl.SourceErrors as found:
        dsl.render_text(found.diagnostics)


def _accept_or_explain(text: str) -> None:
    try:
        spec = load(text)
    except dsl.SourceErrors as found:
        shown = dsl.render_text(found.diagnostics)
        assert all(len(line) <= 80 for line in shown.splitlines())
    else:
        assert load(spec.text) == spec


@pytest.mark.timeout(20)
def test_patterns_of_ignored_tensors_take_no_time_on_long_names() -> None:
    """Many `{}` in a row have one way to match, not one for every way to share out the digits."""
    pattern, name = "{}" * 9 + "x", "1" * 120
    ignored = f'checkpoint huggingface {{\n    ignore = ["{pattern}"]'
    text = TINY.replace('"model.embed_tokens.weight"', f'"{name}"').replace(
        "checkpoint huggingface {", ignored
    )

    assert text.count(name) == text.count(pattern) == 1
    assert dsl.load_text(text).checkpoint is not None
