"""Diagnostics as text and as data."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dsl_texts import SMALL, edited, errors
from moec import dsl
from moec.dsl import catalogue as c
from moec.dsl.source import SourceText, Span

ESCAPE = "\x1b[31m"


def _rendered(text: str, start: int, end: int, label: str = "here") -> list[str]:
    return dsl.render_text([c.SYNTAX.at(Span(SourceText("a.moe", text), start, end), label)]).splitlines()


def test_the_caret_stands_under_the_span() -> None:
    lines = _rendered("ab cde f\n", 3, 6)
    assert lines[1:5] == [" --> a.moe:1:4", "  |", "1 | ab cde f", "  |    ^^^ here"]


def test_the_caret_counts_the_cells_of_wide_characters() -> None:
    assert _rendered("模型 x", 3, 4)[3:5] == ["1 | 模型 x", "  |      ^ here"]


def test_tabs_and_control_characters_do_not_reach_the_terminal() -> None:
    shown = dsl.render_text(errors(edited(SMALL, "width   = 64", f"width\t= {ESCAPE}64")))
    assert "\x1b" not in shown
    assert "\t" not in shown
    named = c.SYNTAX.at(Span(SourceText(f"{ESCAPE}.moe", "x"), 0, 1), f"found {ESCAPE}", advice=ESCAPE)
    assert "\x1b" not in dsl.render_text([named])


def test_data_for_programs() -> None:
    (found,) = dsl.render_data(errors("use tiny\n\ntrain {\n    batch = 1000\n}\n"))
    assert json.loads(json.dumps(found)) == {
        "code": "MOE0802",
        "title": "batch holds no whole number of sequences",
        "message": "batch = 1000 tokens is not a multiple of sequence = 128",
        "file": "<text>",
        "line": 4,
        "column": 13,
        "end_line": 4,
        "end_column": 17,
        "notes": [],
        "help": "nearest: 896 (7 sequences) or 1024 (8 sequences)",
    }


def test_a_diagnostic_without_a_place() -> None:
    diagnostic = c.UNREADABLE.at(None, "a.moe does not exist")
    assert dsl.render_text([diagnostic]) == (
        "error[MOE1105]: cannot read the file\n  a.moe does not exist\n\n1 error\n"
    )
    assert dsl.render_data([diagnostic])[0]["line"] is None


def test_explain_knows_every_code() -> None:
    for kind in c.ALL:
        text = dsl.explain(kind.code.lower())
        assert text is not None
        assert text.startswith(f"{kind.code}: {kind.title}")
    assert dsl.explain("MOE9999") is None


def test_codes_are_given_once() -> None:
    assert len(c.BY_CODE) == len(c.ALL)
    assert len({kind.title for kind in c.ALL}) == len(c.ALL)


@settings(max_examples=200, deadline=None)
@given(st.text(min_size=1, max_size=300), st.data())
def test_any_place_of_any_text_fits_eighty_columns(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    lines = _rendered(text, start, end, data.draw(st.sampled_from(["here", "a long label " * 12])))
    assert all(len(_without_marks(line)) <= 80 for line in lines)
    assert any("^" in line for line in lines)


def _without_marks(line: str) -> str:
    """Marks that combine with the character before them take no column of a terminal."""
    return "".join(char for char in line if not unicodedata.combining(char))


@pytest.mark.parametrize("length", range(60, 100))
def test_a_caret_behind_a_line_of_any_length_fits(length: int) -> None:
    lines = _rendered("a" * length, length, length)
    assert all(len(line) <= 80 for line in lines)
    assert lines[4].index("^") == len(lines[3])


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="ab\n", max_size=40), st.data())
def test_lines_and_columns(text: str, data: st.DataObject) -> None:
    """Against counting: the line is the number of line ends before, the column the distance to the last."""
    offset = data.draw(st.integers(0, len(text)))
    source = SourceText("a", text)
    before = text[:offset]
    assert source.line_of(offset) == before.count("\n") + 1
    assert source.column_of(offset) == offset - (before.rfind("\n") + 1) + 1
    assert source.line_text(source.line_of(offset)) == text.split("\n")[before.count("\n")]


@given(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_a_span_holds_what_lies_within(a: int, b: int, c_: int, d: int) -> None:
    source = SourceText("a", "0123456789")
    outer, inner = Span(source, min(a, b), max(a, b)), Span(source, min(c_, d), max(c_, d))
    within = outer.start <= inner.start and inner.end <= outer.end
    assert (inner in outer) == within
