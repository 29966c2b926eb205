"""Hover: what stands at a place, with numbers that agree with the model."""

from __future__ import annotations

import pytest

from marked import mark, marked, shipped
from moec.dsl import parameters
from moec.dsl.vocabulary import CONSTRUCTS
from moec.lsp.document import Document
from moec.lsp.hover import hover

TINY = shipped("tiny")
QWEN = shipped("qwen3_30b_a3b")


def said(text: str) -> str:
    document, offset = marked(text)
    found = hover(document, offset, document.model)
    return found.text if found is not None else ""


def over(text: str, passage: str, inside: int = 0) -> str:
    return said(mark(text, passage, inside))


def test_a_construct_says_its_equation_arguments_and_users() -> None:
    text = over(QWEN, "gqa(")
    assert "y = o(softmax(" in text
    assert all(f"`{param.name}`" in text for param in CONSTRUCTS["gqa"].params)
    assert "families" in text
    assert "exp(logit" in over(QWEN, "softmax |")
    assert "radians" in over(QWEN, "rope(theta")


def test_a_binding_says_its_value_and_parameters() -> None:
    text = over(QWEN, "attention = gqa(")
    assert "attention = gqa( heads: 32, kv_heads: 4" in text
    assert "| `layers[i].attention.q` | (4096, 2048) | 48 |" in text
    assert "| `layers[i].attention.q_norm` | (128,) | 48 |" in text
    assert "| `layers[i].attention.norm` | (2048,) | 48 |" in text
    assert "**gqa**: y = o(softmax(" in text
    assert over(QWEN, "x += attention(norm(x))", 5) == text


def test_the_parameters_of_all_bindings_are_those_of_the_model() -> None:
    """Each parameter is said of the component and of its norm, where it is one's."""
    model = Document(QWEN).model
    assert model is not None
    total, _ = parameters.count(model)
    counted = 0
    for passage in ("attention = gqa(", "experts   = moe("):
        counted += int(over(QWEN, passage).rsplit("\n", 1)[-1].split()[0].replace(",", ""))
    embed = 2 * model.vocab * model.width
    assert counted + embed + model.width == total


def test_layers_say_kinds_and_counts() -> None:
    model = Document(QWEN).model
    assert model is not None
    total, active = parameters.count(model)
    text = over(QWEN, "layers 48 {")
    assert "48 layers, 1 kind" in text
    assert f"{total:,} parameters, {active:,} active per token" in text
    assert over(QWEN, "layers 48 {", 8) == text
    mixed = QWEN.replace("dense_layers = []", "dense_layers = [0, 1]")
    assert "48 layers, 2 kinds" in over(mixed, "layers 48 {")
    assert "- 0..2: " in over(mixed, "layers 48 {")


def test_a_rule_of_the_weight_map_says_parameters_and_tensors() -> None:
    text = over(QWEN, "experts.expert[e].{gate,up,down}", 16)
    assert "| `layers[i].experts.expert[e].gate` | (768, 2048) | 6,144 |" in text
    assert "| `layers[i].experts.expert[e].down` | (2048, 768) | 6,144 |" in text
    first = "`layers.0.experts.expert.0.gate` is in `model.layers.0.mlp.experts.0.gate_proj.weight`"
    assert first in text
    assert over(QWEN, '"model.layers.{i}.mlp.experts.{e}.{}_proj.weight"', 4) == text


def test_a_weight_map_that_is_wrong_says_parameters_all_the_same() -> None:
    for broken in (
        TINY.replace("    logits  ", "    logit  "),
        TINY.replace('"lm_head.weight"', '"lm_head.'),
    ):
        assert Document(broken).checked.diagnostics
        assert "| `embed` | (" in over(broken, "embed  ")


@pytest.mark.parametrize(
    ("passage", "inside", "expected"),
    [
        ("kv_heads: 4", 0, "`kv_heads`: count; default heads"),
        ("router:  softmax", 0, "`router`: pipeline of stages; required"),
        ("vocab   =", 0, "`vocab`: count; required"),
        ("131_072", 0, ""),
        ("1e6", 0, "`1e6` = 1_000_000"),
        ("attention.kv_heads", 12, "attention.kv_heads = 4"),
        ("= experts.router.top", 18, "experts.router.top = 8"),
        ("model qwen3", 7, "parameters"),
        ("else []", 0, "config.json"),
        ("match layer", 0, "first arm"),
        ("parallel { expert = rest }", 20, "what the other degrees leave"),
        ("train { batch = 4M tokens }", 16, "`4M` = 4_194_304"),
        ("train { batch = 4M tokens }", 8, "`batch`: count of tokens, or of sequences"),
        ("train { batch = 4M tokens }", 0, "How the model is trained."),
        ("layout: interleaved", 8, "`layout`: half or interleaved"),
    ],
)
def test_values(passage: str, inside: int, expected: str) -> None:
    text = QWEN.replace("rope(theta: 1e6)", "rope(theta: 1e6, layout: interleaved)")
    text += "parallel { expert = rest }\ntrain { batch = 4M tokens }\n"
    if passage in text:
        assert expected in over(text, passage, inside)


def test_a_used_model() -> None:
    assert "46.7B parameters" in said("use mix^tral_8x7b\n")
    assert said("use no_such_mo^del\n") == ""
    assert said('use "no/such^.moe"\n') == ""


def test_a_binding_of_a_used_text() -> None:
    text = said("use tiny\nmodel { layers 2 { x += att^ention(norm(x)) } }\n")
    assert "bound in tiny.moe" in text
    assert "attention = gqa(" in text


def test_a_broken_model_still_says_what_words_mean() -> None:
    broken = QWEN.replace("heads:    32,", "heads:    ")
    assert Document(broken).model is None
    assert "y = o(softmax(" in over(broken, "gqa(")
    assert "`kv_heads`: count" in over(broken, "kv_heads: 4")
    assert "dense = swiglu(6144)" in over(broken, "dense     =")


def test_a_broken_model_is_answered_with_the_last_good_one() -> None:
    good = Document(QWEN).model
    document, offset = marked(mark(QWEN.replace("heads:    32,", "heads:    "), "attention = gqa("))
    found = hover(document, offset, good)
    assert found is not None
    assert "| `layers[i].attention.q` | (4096, 2048) | 48 |" in found.text


@pytest.mark.parametrize("text", ["^", "# com^ment\n", "model m { ^ }", "(^)"])
def test_nothing_to_say(text: str) -> None:
    assert said(text) == ""
