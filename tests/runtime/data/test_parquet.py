"""Parquet columns as documents; files that lie about themselves are refused."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from moec.runtime.data import parquet
from moec.runtime.data.source import check_exists, open_stream
from moec.runtime.data.stream import fingerprint
from moec.runtime.data.text import documents
from moec.runtime.data.tokenizer import ByteTokenizer
from moec.runtime.errors import EnvironmentMismatch, IntegrityError, RuntimeFailure, UserError

TEXTS = [f"document {i} " * (i % 7) for i in range(1000)]


def table(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path, row_group_size=300)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return table(tmp_path / "a.parquet", text=TEXTS, n=list(range(1000)))


def test_rows_are_documents_in_order(file: Path, tmp_path: Path) -> None:
    """The same stream as of JSON lines with these texts; a column may be named, and be of large strings."""
    assert list(documents(str(file))) == TEXTS
    large = pa.array(TEXTS, pa.large_string())
    other = table(tmp_path / "b.parquet", body=large)
    assert list(documents(f"{other}:body")) == TEXTS
    stream = open_stream(str(file), ByteTokenizer(), 257)
    assert fingerprint(stream, True) == fingerprint(open_stream(f"{other}:body", ByteTokenizer(), 257), True)


def test_a_folder_may_hold_parquet_beside_text(file: Path, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("plain")
    check_exists(str(tmp_path))
    assert list(documents(str(tmp_path))) == [*TEXTS, "plain"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"body": ["x"]}, 'no column "text"; the columns are: body'),
        ({"text": [1]}, 'the column "text" holds int64, not text'),
        ({"text": [["x"]]}, r'the column "text" holds list<.*>, not text'),
        ({"text": [b"x"]}, 'the column "text" holds binary, not text'),
        ({"text": ["x", None]}, 'the column "text" has no text in row 1'),
    ],
)
def test_a_column_that_is_no_text_is_refused(
    tmp_path: Path, columns: dict[str, object], message: str
) -> None:
    path = table(tmp_path / "a.parquet", **columns)
    with pytest.raises(UserError, match=f"^{path}: {message}"):
        list(documents(str(path)))


def test_limits_hold(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "MAX_ROW_BYTES", 30)
    with pytest.raises(UserError, match="row 3 has more than 30 characters"):
        list(documents(str(file)))
    monkeypatch.setattr(parquet, "MAX_FOOTER_BYTES", 30)
    with pytest.raises(IntegrityError, match=r"its footer of [0-9]+ bytes is larger than can be true"):
        list(documents(str(file)))


def test_what_is_packed_small_is_limited_unpacked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A megabyte that is one row a thousand times takes a few bytes on disk."""
    path = table(file.parent / "bomb.parquet", text=["x" * 100_000] * 1000)
    assert path.stat().st_size < 300_000
    monkeypatch.setattr("moec.runtime.data.text.MAX_TEXT_BYTES", 400_000)
    with pytest.raises(UserError, match="has more than 400000 bytes"):
        list(documents(str(path)))


@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (lambda raw: b"", UserError, "is no Parquet file"),
        (lambda raw: b"text" * 100, UserError, "is no Parquet file"),
        (lambda raw: raw[:-100], IntegrityError, "cut off or damaged"),
        (lambda raw: raw[:-8] + b"\xff\xff\xff\x7fPAR1", IntegrityError, "footer of 2147483647 bytes"),
        (lambda raw: raw[:-400] + b"\0" * 392 + raw[-8:], IntegrityError, "is damaged"),
    ],
    ids=["empty", "text", "cut off", "a huge footer", "an empty footer"],
)
def test_damage_names_the_file(file: Path, content, kind: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(kind, match=message) as told:
        list(documents(str(file)))
    assert str(file) in str(told.value)


def test_any_bytes_end_in_texts_or_in_an_error_of_ours(file: Path) -> None:
    """Flipped bytes and cuts at random: nothing but our errors comes out."""
    raw, dice = file.read_bytes(), random.Random(0)
    refused = 0
    for _ in range(150):
        changed = bytearray(raw[: dice.randrange(len(raw))] if dice.random() < 0.2 else raw)
        for _ in range(dice.choice([1, 3, 20])):
            if changed:
                changed[dice.randrange(len(changed))] = dice.randrange(256)
        file.write_bytes(changed)
        try:
            assert all(isinstance(text, str) for text in documents(str(file)))
        except RuntimeFailure:
            refused += 1
    assert refused > 50


def test_without_pyarrow_the_extra_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(EnvironmentMismatch, match=r"pip install moec\[data\]"):
        list(documents(str(file)))
