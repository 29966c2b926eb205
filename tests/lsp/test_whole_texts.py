"""Outlines and mistakes of whole texts; any text, at any place, gets an answer and no exception."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz_texts import some
from marked import shipped
from moec import dsl, models
from moec.lsp.complete import complete
from moec.lsp.document import Document
from moec.lsp.hover import hover
from moec.lsp.mistakes import corrections, problems
from moec.lsp.navigate import Refusal, apply, definition, references, rename
from moec.lsp.symbols import Symbol, symbols

QWEN = shipped("qwen3_30b_a3b")


def tree(found: tuple[Symbol, ...]) -> dict[str, object]:
    return {symbol.name: tree(symbol.children) for symbol in found}


def test_outline() -> None:
    found = symbols(Document(QWEN))
    assert [symbol.name for symbol in found] == ["model qwen3_30b_a3b", "checkpoint huggingface"]
    model = {child.name: child for child in found[0].children}
    assert model["attention"].kind == "component"
    assert model["sparse_step"].kind == "value"
    assert model["vocab"].kind == "setting"
    assert [child.name for child in model["layers 48"].children] == ["x", "x"]
    assert model["layers 48"].children[0].detail == "attention(norm(x))"
    assert "config" in [child.name for child in found[1].children]


@pytest.mark.parametrize("name", models.names())
def test_outlines_nest(name: str) -> None:
    """A name lies in its statement, a statement in that around it, and neighbours do not overlap."""
    text = shipped(name)

    def check(found: tuple[Symbol, ...], start: int, end: int) -> None:
        for symbol in found:
            assert start <= symbol.start <= symbol.name_start < symbol.name_end <= symbol.end <= end
            assert text[symbol.name_start : symbol.name_end].split() == symbol.name.split()
            check(symbol.children, symbol.start, symbol.end)
            start = symbol.end

    check(symbols(Document(text)), 0, len(text))


def test_an_outline_of_a_broken_text() -> None:
    text = QWEN.replace("    dense     = swiglu(6144)", "    dense     = swiglu((6144")
    assert tree(symbols(Document(text))) == tree(symbols(Document(QWEN)))


# --- mistakes ---

WRONG = """\
model small {
    vocab   = 320
    width   = 64
    context = 128
    norm      = rms_norm(eps: 1e-5)
    attention = gqa(heads: 4, kv_head: 3)
    experts   = moe(experts: 4 of swiglu(96), router: softmax | topp(2))
    layers 2 { x += atention(norm(x)) }
    logits = linear(norm(x))
}
train { step = 3 }
"""


def test_all_mistakes_at_once_at_their_places() -> None:
    document = Document(WRONG)
    found = {WRONG[one.start : one.end]: one for one in problems(document)}
    assert {"kv_head: 3", "topp", "atention", "step"} <= set(found)
    assert all(one.link == f"moec-explain:/{one.code}" for one in found.values())
    assert all(dsl.explain(one.code) for one in found.values())
    assert "unknown" in found["atention"].message


def test_corrections_put_misspelt_names_right() -> None:
    text = WRONG
    for _ in range(4):
        found = corrections(Document(text), 0, len(text))
        if not found:
            break
        text = apply(text, [found[0][1]])
    assert "| top(2)" in text
    assert "attention(norm(x))" in text
    assert "{ steps = 3 }" in text


def test_a_mistake_of_a_used_text_stands_at_the_use(tmp_path: Path) -> None:
    (tmp_path / "base.moe").write_text(WRONG, encoding="utf-8")
    text = '\nuse "base.moe"\n'
    found = problems(Document(text, tmp_path / "mine.moe"))
    assert {text[one.start : one.end] for one in found} == {'use "base.moe"'}
    assert all("base.moe:" in one.message for one in found)


def test_a_mistake_of_no_place(tmp_path: Path) -> None:
    (one,) = problems(Document("", tmp_path / "mine.moe"))
    assert (one.start, one.end) == (0, 1)


# --- any text ---


def everything(text: str, offset: int) -> None:
    """Ask all there is to ask about a place."""
    document = Document(text)
    model = document.model
    hover(document, offset, model)
    complete(document, offset, model)
    complete(document, offset, Document(QWEN).model)
    definition(document, offset)
    references(document, offset)
    symbols(document)
    problems(document)
    corrections(document, offset, len(text))
    try:
        edits = rename(document, offset, "other")
    except Refusal:
        return
    assert edits


PIECES = st.sampled_from(
    [
        "", "(", ")", "{", "}", "[", "]", "=", "+=", "|", "=>", "..", ".", ":", ",", "\n", '"', "#", "x",
        "norm", "match", "use ", "layers ", "model ", "4", "of", "\ud800", "é", "\r", "config {",
        "checkpoint huggingface {",
    ]
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_edit_of_a_text(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from([shipped("tiny"), WRONG]))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.integers(0, 30)))
        text = text[:start] + data.draw(PIECES) + text[end:]
    near = data.draw(st.sampled_from([0, 1, 2])) + min(start, len(text))
    everything(text, min(near, len(text)))


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES, max_size=25).map("".join), st.data())
def test_any_text(text: str, data: st.DataObject) -> None:
    everything(text, data.draw(st.integers(0, len(text))))


@pytest.mark.parametrize("start", range(0, 160, 20))
def test_mutated_texts(start: int) -> None:
    for number in range(start, start + 20):
        text = some(number)[1]
        everything(text, Random(number).randrange(len(text) + 1))


@pytest.mark.parametrize("text", ["model m { a = }", "model m { a = \n b = swiglu(8) }"])
def test_a_value_that_is_not_there_yet(text: str) -> None:
    for offset in range(len(text)):
        everything(text, offset)


@pytest.mark.parametrize("end", range(0, len(shipped("tiny")), 37))
def test_every_beginning_of_a_text(end: int) -> None:
    """As it is typed."""
    everything(shipped("tiny")[:end], end)


@pytest.mark.parametrize(
    "text", ["(" * 5_000, "a.b" * 3_000, "model m {\n" * 300, "x = " + "[[" * 40, "use a\n" * 900]
)
def test_absurd_texts(text: str) -> None:
    everything(text, len(text))
