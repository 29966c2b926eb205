"""Colours: every word has the class that the tables of the language give it, in both kinds of editors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.token import Error

from flat_grammar import scopes
from moec import models
from moec.dsl.vocabulary import CONSTRUCTS, Construct
from moec.highlight.classify import classify
from moec.highlight.lexer import TOKEN_OF, MoeLexer
from moec.highlight.textmate import SCOPES, grammar, grammar_text, scope
from moec.highlight.words import OF_ROLE, Class

ROOT = Path(__file__).parents[2]
VSCODE = ROOT / "editors" / "vscode"
PAGES = sorted((ROOT / "docs").glob("*.md"))
EXAMPLES = {
    f"{page.stem} {index}": text
    for page in PAGES
    for index, text in enumerate(re.findall(r"```moe\n(.*?)```", page.read_text("utf-8"), re.DOTALL))
}
SHIPPED = {name: found[1] for name in models.names() if (found := models.read(name))}
TEXTS = SHIPPED | EXAMPLES

SAMPLE = """\
use tiny
model sample {
    depth = 3
    f     = moe(experts: 8 of swiglu(96), router: softmax | top(2), window: none)
    layers depth { x += match layer { every(2) => f, _ => g }(norm(x)) }
}
train { batch = 4M tokens }
checkpoint huggingface { layers[i].{f,g}.up = stack("a.{i}.{}") }
"""
EXPECTED: dict[str, Class] = {
    "use": "keyword", "tiny": "block_name", "model": "block", "sample": "block_name", "3": "number",
    "moe": "component", "experts": "argument", "8": "number", "of": "keyword", "softmax": "stage",
    "|": "operator", "window": "argument", "none": "constant", "layers": "block", "x": "stream",
    "+=": "operator", "match": "keyword", "layer": "stream", "every": "function", "=>": "operator",
    "_": "constant", "norm": "name", "train": "block", "batch": "target", "4M": "number", "tokens": "unit",
    "stack": "form", '"a.': "string", "{i}": "hole", "{": "punctuation",
}  # fmt: skip


def classes(text: str) -> list[tuple[str, Class]]:
    return [(text[run.start : run.end], run.kind) for run in classify(text) if run.kind is not None]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_texts_have_no_error(text: str) -> None:
    assert "error" not in {kind for _, kind in classes(text)}
    assert Error not in {kind for kind, _ in MoeLexer().get_tokens(text)}
    assert scope("error") not in {name for _, name in scopes(grammar(), text)}


def test_there_are_texts() -> None:
    assert len(SHIPPED) >= 5
    assert len(EXAMPLES) >= 2


def test_a_sample() -> None:
    found: dict[str, Class] = {}
    for word, kind in classes(SAMPLE):
        found.setdefault(word, kind)
    assert {word: found.get(word) for word in EXPECTED} == EXPECTED


def test_editors_agree_on_the_sample() -> None:
    found: dict[str, str] = {}
    for word, name in scopes(grammar(), SAMPLE):
        found.setdefault(word, name)
    assert {word: found.get(word) for word in EXPECTED} == {w: scope(kind) for w, kind in EXPECTED.items()}


@pytest.mark.parametrize("construct", CONSTRUCTS.values(), ids=CONSTRUCTS)
def test_a_construct_has_the_class_of_its_role(construct: Construct) -> None:
    text, wanted = f"model m {{ a = {construct.name}(1) }}", OF_ROLE[construct.role]
    assert (construct.name, wanted) in classes(text)
    assert (construct.name, scope(wanted)) in scopes(grammar(), text)
    assert (TOKEN_OF[wanted], construct.name) in MoeLexer().get_tokens(text)


def test_every_class_has_a_colour() -> None:
    assert set(SCOPES) == set(TOKEN_OF)
    assert {kind for text in [*TEXTS.values(), SAMPLE] for _, kind in classes(text)} <= set(SCOPES)


@pytest.mark.parametrize(
    ("text", "wrong"), [('a = "open', '"open'), ("a = é", "é"), ("a = $$ 1", "$$"), ("\x00", "\x00")]
)
def test_what_is_no_token_is_an_error(text: str, wrong: str) -> None:
    assert (wrong, "error") in classes(text)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=100) | st.text('model {}()[]"#x=+|.,:*/_0Ki\n', max_size=100))
def test_any_text_is_classified_whole(text: str) -> None:
    runs = list(classify(text))
    assert "".join(text[run.start : run.end] for run in runs) == text
    assert all(run.start < run.end for run in runs)


@settings(max_examples=100, deadline=None)
@given(st.text('model {}()[]"#x=+|.,:*/_0Ki\n', max_size=60))
def test_the_grammar_of_editors_loses_no_character(text: str) -> None:
    blanks = str.maketrans("", "", " \n")
    parts = "".join(part for part, _ in scopes(grammar(), text))
    assert parts.translate(blanks) == text.translate(blanks)


def test_pygments_finds_the_lexer() -> None:
    """By the entry point of the package."""
    assert isinstance(get_lexer_by_name("moe"), MoeLexer)
    assert isinstance(get_lexer_for_filename("model.moe"), MoeLexer)


def test_the_grammar_of_the_extension_is_that_of_the_program(golden: Callable[[str, Path], None]) -> None:
    golden(grammar_text(), VSCODE / "syntaxes" / "moe.tmLanguage.json")


def test_the_extension_names_files_that_are_there() -> None:
    package = json.loads((VSCODE / "package.json").read_text("utf-8"))
    contributed = package["contributes"]
    files = [
        package["main"],
        contributed["languages"][0]["configuration"],
        contributed["grammars"][0]["path"],
    ]
    assert all((VSCODE / file).is_file() for file in files)
    assert contributed["grammars"][0]["scopeName"] == grammar()["scopeName"]
    configuration = json.loads((VSCODE / "language-configuration.json").read_text("utf-8"))
    for pattern in configuration["indentationRules"].values():
        re.compile(pattern)
