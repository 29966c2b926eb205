"""Data as JSON: what is written is read back, and every surprise is an error that names its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moec.runtime.abi.codec import FormatError, dump, from_data, parse_json, read_json, to_data


@dataclass(frozen=True)
class Part:
    name: str
    size: int


@dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    scale: float
    kind: Literal["a", "b"]
    limit: int | None
    pair: tuple[str, int]
    table: dict[str, tuple[int, ...]]
    flag: bool


WHOLE = Whole((Part("x", 1), Part("y", 2)), 0.5, "b", None, ("p", 3), {"k": (1, 2)}, True)

PARTS = st.builds(Part, st.text(), st.integers())
WHOLES = st.builds(
    Whole,
    parts=st.lists(PARTS, max_size=3).map(tuple),
    scale=st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(["a", "b"]),
    limit=st.none() | st.integers(),
    pair=st.tuples(st.text(), st.integers()),
    table=st.dictionaries(st.text(), st.lists(st.integers(), max_size=3).map(tuple), max_size=3),
    flag=st.booleans(),
)


@settings(deadline=None)
@given(WHOLES)
def test_what_is_written_is_read_back(whole: Whole) -> None:
    assert from_data(Whole, parse_json(dump(to_data(whole)), "f"), "f") == whole


def test_text_does_not_depend_on_how_a_dict_was_made() -> None:
    assert dump(to_data(WHOLE)) == dump(to_data(from_data(Whole, to_data(WHOLE), "f")))
    assert dump({"ä": 1}) == b'{\n "\xc3\xa4": 1\n}\n'


def changed(**changes: Any) -> dict[str, Any]:
    return {**to_data(WHOLE), **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(extra=1), r"f: unknown keys \['extra'\], missing keys \[\]"),
        (
            {k: v for k, v in changed().items() if k != "flag"},
            r"f: unknown keys \[\], missing keys \['flag'\]",
        ),
        ([], "f: expected an object, found"),
        (changed(parts=[{"name": "x", "size": "1"}]), r"f\.parts\[0\]\.size: expected int, found '1'"),
        (changed(parts={}), r"f\.parts: expected a list, found"),
        (changed(parts=[{"name": "x", "size": True}]), r"f\.parts\[0\]\.size: expected int, found True"),
        (changed(parts=[{"name": "x", "size": 1.0}]), r"f\.parts\[0\]\.size: expected int, found 1\.0"),
        (changed(scale="1"), r"f\.scale: expected a number, found '1'"),
        (changed(scale=True), r"f\.scale: expected a number, found True"),
        (changed(scale=10**400), r"f\.scale: expected a number, found 1000"),
        (changed(kind="c"), r"f\.kind: expected one of \('a', 'b'\), found 'c'"),
        (changed(kind=[]), r"f\.kind: expected one of"),
        (changed(limit="x"), r"f\.limit: expected int or NoneType, found 'x'"),
        (changed(pair=["p"]), r"f\.pair: expected 2 elements, found"),
        (changed(pair=["p", 1, 2]), r"f\.pair: expected 2 elements, found"),
        (changed(table={"k": [1, "x"]}), r"f\.table\.k\[1\]: expected int, found 'x'"),
        (changed(table=[]), r"f\.table: expected an object, found"),
        (changed(flag=1), r"f\.flag: expected bool, found 1"),
        (changed(flag=None), r"f\.flag: expected bool, found None"),
        (changed(kind="c" * 1000), r"found '(c){56}\.\.\."),
    ],
)
def test_wrong_data_is_refused_with_its_place(data: Any, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        from_data(Whole, data, "f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b"", "not valid JSON"),
        (b"\xff\xfe1", "not valid JSON"),
        (b'"\xff"', "not valid JSON"),
        (b"NaN", "NaN is no number"),
        (b"[Infinity]", "Infinity is no number"),
        (b"-Infinity", "-Infinity is no number"),
        (b"1e999", "1e999 is too large a number"),
        (b"9" * 10_000, "not valid JSON"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "a key stands twice in one object"),
        (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "nested deeper than 64"),
        (b"[" * 100_000, "not valid JSON"),
        (b"1 2", "not valid JSON"),
        (b"# eval\n1", "not valid JSON"),
    ],
    ids=lambda value: value[:20],
)
def test_text_that_is_no_plain_json_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=rf"f: .*{message}"):
        parse_json(text, "f")


@settings(deadline=None)
@given(st.binary(max_size=40))
def test_any_bytes_are_data_or_a_format_error(raw: bytes) -> None:
    try:
        parse_json(raw, "f")
    except FormatError:
        return


def test_a_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(b"[1]")
    assert read_json(path, 3) == [1]
    with pytest.raises(FormatError, match=r"data\.json: larger than 2 bytes"):
        read_json(path, 2)


def test_numbers_that_are_not_finite_are_not_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump({"x": float("nan")})


def test_damage_has_the_exit_code_of_damage() -> None:
    assert FormatError.exit_code == 76
