"""Offsets and positions: each is found again by way of the other, in every encoding."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.lsp.places import Encoding, Places

TEXT = "aé\n🜛b\r\nc\rd"
ENCODINGS: list[Encoding] = ["utf-8", "utf-16", "utf-32"]


@pytest.mark.parametrize(("encoding", "column"), [("utf-8", 4), ("utf-16", 2), ("utf-32", 1)])
def test_units_of_a_character_beyond_the_first_plane(encoding: Encoding, column: int) -> None:
    assert Places(TEXT, encoding).position(TEXT.index("b")) == (1, column)
    assert Places(TEXT, encoding).offset((1, column)) == TEXT.index("b")


def test_every_line_end_counts() -> None:
    assert [Places(TEXT).position(TEXT.index(char))[0] for char in "abcd"] == [0, 1, 2, 3]


def test_beyond_the_end() -> None:
    places = Places("ab\ncd")
    assert places.offset((0, 99)) == 2
    assert places.offset((1, 99)) == 5
    assert places.offset((99, 0)) == 5
    assert places.position(99) == (1, 2)
    assert Places("").offset((0, 0)) == 0


@settings(max_examples=200, deadline=None)
@given(st.text("ab\né🜛\r", max_size=20), st.sampled_from(ENCODINGS), st.data())
def test_there_and_back(text: str, encoding: Encoding, data: st.DataObject) -> None:
    places = Places(text, encoding)
    offset = data.draw(st.integers(0, len(text)))
    if text[offset - 1 : offset + 1] != "\r\n":  # no position lies within one line end
        assert places.offset(places.position(offset)) == offset
