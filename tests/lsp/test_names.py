"""Definition, references and rename: in equations, patterns, arguments, paths of parameters and of values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from marked import MARK, mark, marked, shipped
from moec import dsl, models
from moec.lsp.document import Document
from moec.lsp.names import SIZES
from moec.lsp.navigate import Refusal, apply, definition, references, rename

TEXT = """\
model small {
    vocab   = 320
    width   = 64
    context = 128

    depth     = 4
    wide      = every(2)
    norm      = rms_norm(eps: 1e-5)
    attention = gqa(heads: 4, qk_norm: per_head(norm), window: match layer { wide => none, _ => 64 })
    expert    = swiglu(96)
    experts   = moe(experts: 4 of expert, shared: 1 of swiglu(32), router: softmax | top(2), combine: sum)

    layers depth {
        h  = norm(x)
        x += attention(h) + match layer { wide => experts, _ => expert }(h)
    }

    logits = linear(norm(x))
}

checkpoint huggingface {
    embed                                  = "embed"
    layers[i].norm                         = "layers.{i}.norm"
    layers[i].attention.{q,k,v,o}          = "layers.{i}.{}"
    layers[i].attention.{q_norm,k_norm}    = "layers.{i}.attention.{}"
    layers[i].expert.{gate,up,down}        = "layers.{i}.dense.{}"
    layers[i].experts.router               = "layers.{i}.router"
    layers[i].experts.expert[e].{gate,up,down} = "layers.{i}.expert.{e}.{}"
    layers[i].experts.shared.{gate,up,down}    = "layers.{i}.shared.{}"
    norm                                   = "norm"
    logits                                 = "logits"

    config {
        hidden_size = width
        eps         = norm.eps
        num_experts = experts.experts
        layer_types = match layer { wide => "full", _ => "sliding" }
    }
}
"""


def at(text: str, line_with: str, word: str) -> tuple[Document, int]:
    """The start of a word in the line that holds a passage."""
    start = text.index(line_with)
    return Document(text), text.index(word, start)


def found(text: str, line_with: str, word: str) -> list[tuple[int, str]]:
    """(line, text) of all references of a word."""
    document, offset = at(text, line_with, word)
    return [(text.count("\n", 0, p.start) + 1, text[p.start : p.end]) for p in references(document, offset)]


def test_the_text_is_sound() -> None:
    assert Document(TEXT).checked.diagnostics == ()


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("wide", [7, 9, 15, 37]),
        ("depth", [6, 13]),
        ("norm", [8, 9, 14, 18, 23, 30, 35]),
        ("attention", [9, 15, 24, 25]),
        ("expert", [10, 11, 15, 26]),
        ("experts", [11, 15, 27, 28, 29, 36]),
        ("width", [3, 34]),
    ],
)
def test_references(word: str, expected: list[int]) -> None:
    """Not what looks alike: names of arguments, of parameters, of keys, words of the language."""
    places = found(TEXT, f"\n    {word} ", word)
    assert [line for line, _ in places] == expected
    assert {text for _, text in places} == {word}


def test_a_local_name_lives_in_its_layer() -> None:
    assert [line for line, _ in found(TEXT, "h  =", "h")] == [14, 15, 15]


@pytest.mark.parametrize("passage", ["attention(h)", "attention.{q,", "attention.{q_norm"])
def test_definition_from_anywhere(passage: str) -> None:
    place = definition(*at(TEXT, passage, "attention"))
    assert place is not None
    assert place.path is None
    assert TEXT[place.start : place.end + 6] == "attention = gqa"[: place.end + 6 - place.start]
    assert place.start == TEXT.index("attention =")


@pytest.mark.parametrize("name", ["wide", "depth", "norm", "attention", "expert", "experts", "h"])
def test_rename_keeps_the_meaning(name: str) -> None:
    """The renamed text checks, and renaming back gives the text again."""
    document = Document(TEXT)
    offset = TEXT.index("h  =") if name == "h" else TEXT.index(f"\n    {name} ") + 5
    renamed = apply(TEXT, rename(document, offset, "other"))
    assert renamed != TEXT
    assert Document(renamed).checked.diagnostics == ()
    back = Document(renamed)
    where = renamed.index("other  =") if name == "h" else renamed.index("\n    other ") + 5
    assert apply(renamed, rename(back, where, name)) == TEXT


@pytest.mark.parametrize("name", models.names())
def test_rename_in_shipped_models(name: str) -> None:
    """Their names can be others: the text means the same, but for that name, which is nowhere left."""
    text = shipped(name)
    document = Document(text)
    own = [x for x in document.own_names.mentions if x.defines and x.name not in SIZES and x.scope is None]
    assert len(own) > 2
    for mention in own[:: 1 + len(own) // 4]:
        renamed = Document(apply(text, rename(document, mention.start, "zzz")))
        assert renamed.checked.diagnostics == ()
        assert mention.name not in renamed.own_names.bindings
        assert len(renamed.names.same(replace(mention, name="zzz"))) == len(document.names.same(mention))


def test_a_norm_inside_the_names_of_parameters() -> None:
    text = (
        shipped("tiny")
        .replace("x += experts(norm(x))", "x += norm(experts(norm(x)))")
        .replace(
            "checkpoint huggingface {",
            'checkpoint huggingface {\n    layers[i].experts.post_norm = "post.{i}"',
        )
    )
    document = Document(text)
    assert document.checked.diagnostics == ()
    renamed = apply(text, rename(document, text.index("norm "), "scaled"))
    assert "layers[i].experts.post_scaled " in renamed
    assert "norm(" not in renamed.replace("rms_norm(", "")


@pytest.mark.parametrize(
    ("name", "new", "why"),
    [
        ("norm", "attention", "bound already"),
        ("norm", "h", "bound already"),
        ("norm", "layers", "fixed meaning"),
        ("norm", "match", "fixed meaning"),
        ("norm", "two words", "is no name"),
        ("norm", "ä", "is no name"),
        ("width", "w", "keeps its name"),
    ],
)
def test_refusals(name: str, new: str, why: str) -> None:
    with pytest.raises(Refusal, match=why):
        rename(Document(TEXT), TEXT.index(f"\n    {name} ") + 5, new)


def test_no_name_no_rename() -> None:
    with pytest.raises(Refusal, match="no name"):
        rename(Document(TEXT), TEXT.index("softmax"), "other")


def test_names_of_used_texts(tmp_path: Path) -> None:
    (tmp_path / "base.moe").write_text(dsl.format_text(shipped("tiny")), encoding="utf-8")
    text = 'use "base.moe"\nmodel { layers 2 { x += attention^(norm(x)) } }\n'
    document, offset = marked(text, tmp_path / "mine.moe")
    place = definition(document, offset)
    assert place is not None
    assert place.path == tmp_path / "base.moe"
    assert place.document.text[place.start :].startswith("attention ")
    with pytest.raises(Refusal, match=r"base\.moe"):
        rename(document, offset, "other")


def test_definition_of_use(tmp_path: Path) -> None:
    place = definition(*marked("use mix^tral_8x7b\n", tmp_path / "mine.moe"))
    assert place is not None
    assert place.path is not None
    assert place.path.read_text("utf-8") == shipped("mixtral_8x7b")
    assert definition(*marked("use no_such^_model\n")) is None
    assert definition(*marked('use "no/such/file^.moe"\n')) is None


def test_texts_that_use_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.moe").write_text('use "b.moe"\nmodel m { one = swiglu(8) }\n', encoding="utf-8")
    (tmp_path / "b.moe").write_text('use "a.moe"\nmodel { two = swiglu(8) }\n', encoding="utf-8")
    text = (tmp_path / "a.moe").read_text("utf-8")
    document = Document(text, tmp_path / "a.moe")
    assert set(document.names.bindings) == {"one", "two"}


BROKEN = {
    "an open call": (
        "experts   = moe(experts: 4 of expert",
        "experts   = moe(experts: 4 of expert, router: ",
    ),
    "an open string": ('"layers.{i}.norm"', '"layers.{i}.norm'),
    "a missing value": ("depth     = 4", "depth     ="),
    "a missing brace": ("        layer_types", "        } } }\n        layer_types"),
    "a stray bracket": ("h  = norm(x)", "h  = norm(x))"),
}


@pytest.mark.parametrize("old_new", BROKEN.values(), ids=BROKEN)
def test_broken_texts_keep_their_names(old_new: tuple[str, str]) -> None:
    """What is typed in one place takes no name away in another."""
    assert old_new[0] in TEXT
    text = TEXT.replace(old_new[0], old_new[1], 1)
    assert Document(text).checked.diagnostics
    place = definition(*at(text, "attention(h)", "attention"))
    assert place is not None
    assert place.start == text.index("attention =")


def test_the_mark_is_no_character_of_the_language() -> None:
    assert MARK not in "".join(map(shipped, models.names()))
    assert mark("ab", "b") == "a^b"
