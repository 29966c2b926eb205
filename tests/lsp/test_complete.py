"""Completion: what can stand at a place, and nothing else, also where the text is broken there."""

from __future__ import annotations

import pytest

from marked import marked, shipped
from moec import models
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, of_role
from moec.lsp.complete import Completion, complete

MODEL = """\
model small {
    vocab   = 320
    width   = 64
    context = 128
    depth   = 4
    wide    = every(2)
    norm      = rms_norm(eps: 1e-5)
    attention = gqa(heads: 4, kv_heads: 2)
    expert    = swiglu(96)
    %s
    layers 2 {
        h = norm(x)
        x += attention(h)
        %s
    }
    logits = linear(norm(x))
}
%s
"""


def offered(text: str) -> Completion:
    document, offset = marked(text)
    return complete(document, offset, document.model)


def labels(text: str) -> set[str]:
    return {item.label for item in offered(text).items}


def binding(text: str) -> set[str]:
    """In a statement of the model."""
    return labels(MODEL % (text, "", ""))


def equation(text: str) -> set[str]:
    return labels(MODEL % ("", text, ""))


def below(text: str) -> set[str]:
    return labels(MODEL % ("", "", text))


def test_top() -> None:
    assert below("^") == {"use", "model", "checkpoint", *BLOCKS}
    assert below("tr^") >= {"train"}
    assert labels("use ^") == set(models.names())
    assert labels("use mix^") == set(models.names())


@pytest.mark.parametrize("kind", BLOCKS)
def test_settings_of_a_block(kind: str) -> None:
    supported = {param.name for param in BLOCKS[kind] if param.supported}
    first = sorted(supported)[0]
    assert below(f"{kind} {{ ^ }}") == supported
    assert below(f"{kind} {{\n    {first} = 1\n    ^\n}}") == supported - {first}
    assert below(f"{kind} {{\n    ^\n    {first} = 1\n}}") == supported - {first}
    assert below(f"{kind} {{\n    ^") == supported


def test_values_of_settings() -> None:
    assert below("train { optimizer = ^ }") == {"adamw"}
    assert below("train { schedule = ^ }") == {"cosine", "constant"}
    words = {"none", "attention", "experts", "layer", "full", "auto"}
    assert below("memory { recompute = ^ }") == words
    assert below("memory { offload = ^ }") == {"none", "activations"}
    assert below("memory { offload = activations(^) }") == {"horizon", "least"}
    assert below("memory { gathered = ^ }") == {"free", "keep"}
    assert below("parallel { expert = re^ }") == {"rest"}
    assert below("train { optimizer = adamw(^) }") == {"lr", "betas", "eps", "weight_decay"}
    assert below("train { clip = ^ }") == {"none"}


def test_statements_of_a_model() -> None:
    assert binding("^") >= {"init", "layers", "logits"}
    assert not binding("^") & {"vocab", "width", "context", "norm", "x"}


def test_bindings() -> None:
    found = binding("other = ^")
    assert found >= {*of_role("component"), "every", "match", "attention"}
    assert not found & {*of_role("stage"), *of_role("balance"), "adamw"}


@pytest.mark.parametrize("name", [name for name in CONSTRUCTS if CONSTRUCTS[name].role == "component"])
def test_arguments_of_a_component(name: str) -> None:
    params = CONSTRUCTS[name].params
    wanted = {param.name for param in params if param.supported}
    assert binding(f"other = {name}(^") >= wanted
    last = params[-1].name
    assert binding(f"other = {name}({last}: 1, ^)") == wanted - {last}
    assert binding(f"other = {name}(\n        {last}: 1,\n        ^\n    )") == wanted - {last}
    assert binding(f"other = {name}(^, {last}: 1)") >= wanted - {last}


def test_a_router_and_a_balance() -> None:
    stages, terms = {*of_role("stage")}, {*of_role("balance")}
    assert binding("other = moe(router: ^)") - {"match"} == stages
    assert binding("other = moe(experts: 4 of expert, router: softmax | ^") - {"match"} == stages
    assert binding("other = moe(router: softmax | to^p(2))") - {"match"} == stages
    assert binding("other = moe(router: softmax ^)") == set()
    assert binding("other = moe(router: softmax | groups(8, ^))") == {"groups", "keep", "by", "fill"}
    assert binding("other = moe(router: softmax | groups(8, by: ^))") == {"max", "top2_sum", "match"}
    assert binding("other = moe(balance: aux_loss(0.1) + ^)") - {"match", "none"} == terms


def test_networks() -> None:
    assert binding("other = moe(experts: 4 ^)") == {"of"}
    assert binding("other = moe(experts: 4 of ^)") == {
        "swiglu",
        "geglu",
        "mlp",
        "attention",
        "norm",
        "expert",
    }
    assert "depth" in binding("other = moe(experts: ^)")


def test_words_norms_and_numbers() -> None:
    assert binding("other = gqa(sinks: ^)") == {"true", "false", "match"}
    assert binding("other = gqa(qk_norm: ^)") >= {"per_head", "full_width", "none"}
    assert binding("other = gqa(qk_norm: per_head(^))") == {"norm", "after_rope", "rms_norm", "layer_norm"}
    assert binding("other = gqa(heads: ^)") == {"depth", "vocab", "width", "context", "wide", "match"}
    assert binding("other = gqa(rope: ^)") >= {*of_role("position"), "none"}


def test_arms() -> None:
    assert binding("other = gqa(window: match layer { ^") >= {"_", "every", "wide", "depth"}
    assert "attention" not in binding("other = gqa(window: match layer { ^")
    assert binding("other = gqa(rope: match layer { wide => ^ })") >= {*of_role("position"), "none"}
    assert equation("x += match layer { wide => ^ }(h)") >= {"attention", "expert"}
    assert equation("x += match layer {\n            ^\n        }(h)") >= {"_", "every", "wide"}


def test_equations() -> None:
    values = {"x", "h", "norm", "attention", "expert", "match"}
    assert equation("^") == {"x"}
    assert equation("x += ^") == values
    assert equation("x += attention(^)") == values
    assert equation("x += 0.5 * ^") == values
    assert equation("x += attention(norm(h)) + at^") == values
    assert equation("x += attention ^") == set()


def test_a_local_name_is_offered_below_its_line() -> None:
    text = MODEL % ("", "", "")
    above = text.replace("h = norm(x)", "x += ^\n        h = norm(x)")
    assert "h" not in labels(above)


WEIGHTS = shipped("tiny").split("checkpoint")[0]


def test_the_weight_map() -> None:
    found = labels(WEIGHTS + "checkpoint huggingface {\n    ^\n}\n")
    assert found == {
        "ignore", "embed", "norm", "logits", "layers[i].attention.norm", "layers[i].experts.norm",
        *(f"layers[i].attention.{name}" for name in "qkvo"), "layers[i].experts.router",
        *(f"layers[i].experts.expert[e].{name}" for name in ("gate", "up", "down")),
    }  # fmt: skip


def test_the_weight_map_replaces_the_whole_path() -> None:
    text = WEIGHTS + 'checkpoint huggingface {\n    embed = "e"\n    layers[i].att^\n}\n'
    found = offered(text)
    assert text[found.start : text.index("^")] == "layers[i].att"
    assert "layers[i].attention.q" in {item.label for item in found.items}
    assert "embed" not in {item.label for item in found.items}


def test_right_sides_of_the_weight_map() -> None:
    forms = {"concat", "interleave", "stack", "transpose"}
    assert labels(WEIGHTS + "checkpoint huggingface { embed = ^ }") == forms
    assert labels(WEIGHTS + 'checkpoint huggingface { embed = "a^" }') == set()


def test_config() -> None:
    config = WEIGHTS + "checkpoint huggingface { config {\n        %s\n} }\n"
    assert labels(config % "^") == {"ignore"}
    assert labels(config % "hidden_size = ^") >= {"width", "attention", "layers", "match", "none"}
    assert labels(config % "heads = attention.^") == {param.name for param in CONSTRUCTS["gqa"].params}


@pytest.mark.parametrize("text", ["# ^", 'model m { a = "^" }', "model m { a = 1 # ^\n}"])
def test_nothing_in_comments_and_strings(text: str) -> None:
    assert labels(text) == set()


def test_bindings_of_a_used_text() -> None:
    assert labels("use tiny\nmodel {\n    layers 2 { x += ^ }\n}\n") == {
        "x",
        "norm",
        "attention",
        "experts",
        "match",
    }
    assert labels("use tiny\nmodel {\n    ^\n}\n") >= {"norm", "attention", "experts", "vocab"}


def test_what_is_inserted_can_stand_there() -> None:
    """Every component that is offered, with its arguments left to be written, is known to the checker."""
    document, offset = marked(MODEL % ("other = ^", "", ""))
    for item in complete(document, offset, None).items:
        assert item.insert.startswith(item.label) or not item.insert
