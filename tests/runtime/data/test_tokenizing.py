"""`moec tokenize`: what it writes is what a run on the text reads, for any number of processes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from moec.runtime.data import tokenizing
from moec.runtime.data.source import joined, open_stream
from moec.runtime.data.stream import fingerprint
from moec.runtime.data.text import documents
from moec.runtime.data.tokenizer import ByteTokenizer
from moec.runtime.data.tokenizing import Progress, TokenizeOptions, tokenize_to
from moec.runtime.errors import IntegrityError, UserError


def nothing(progress: Progress) -> None:
    pass


def test_the_files_train_as_the_text_does_for_any_number_of_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same ids, same documents, byte for byte; batches are small, so that all processes have several."""
    monkeypatch.setattr(tokenizing, "BATCH_CHARACTERS", 20_000)
    told: list[tuple[int, int]] = []

    def show(progress: Progress) -> None:
        told.append((progress.read_bytes, progress.documents))

    for processes in (1, 3):
        options = TokenizeOptions(("builtin:python-docs",), processes=processes)
        done = tokenize_to(tmp_path / str(processes), options, show)
        assert done.documents == len(list(documents("builtin:python-docs")))
    for suffix in (".bin", ".idx"):
        assert (tmp_path / f"1{suffix}").read_bytes() == (tmp_path / f"3{suffix}").read_bytes()
    text, stored = (
        open_stream(data, ByteTokenizer(), 257) for data in ("builtin:python-docs", str(tmp_path / "3"))
    )
    assert len(text) == len(stored) == done.tokens
    assert fingerprint(text, documents=True) == fingerprint(stored, documents=True)
    assert text.documents(0, len(text)).tolist() == stored.documents(0, len(stored)).tolist()
    assert len(told) > 6
    assert told[-1][1] == done.documents


def test_several_corpora_come_one_after_the_other(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("first")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.writelines(json.dumps({"body": text}) + "\n" for text in ("second", "", "third"))
    data = (str(tmp_path / "a.txt"), f"{tmp_path / 'b.jsonl.gz'}:body")
    done = tokenize_to(tmp_path / "out", TokenizeOptions(data, processes=1), nothing)
    assert done.documents == 4
    stream = open_stream(str(tmp_path / "out"), ByteTokenizer(), 257)
    pieces = list(joined(["first", "second", "", "third"], ByteTokenizer()))
    assert stream.read(0, len(stream)).tolist() == [i for piece in pieces for i in piece.tolist()]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_corpus_that_fails_half_way_leaves_nothing(tmp_path: Path, processes: int) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": 3}\n')
    options = TokenizeOptions((str(tmp_path / "a.jsonl"),), processes=processes)
    with pytest.raises(UserError, match=r'a.jsonl:2: the field "text" is not a string'):
        tokenize_to(tmp_path / "out", options, nothing)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_token_ids_are_not_tokenized_again(tmp_path: Path) -> None:
    tokenize_to(tmp_path / "x", TokenizeOptions(("builtin:python-docs",), processes=1), nothing)
    for name in ("x", "x.bin", "x.idx"):
        with pytest.raises(UserError, match="has token ids already"):
            tokenize_to(tmp_path / "y", TokenizeOptions((str(tmp_path / name),)), nothing)


def test_a_packed_file_that_is_cut_off_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    lines = "".join(json.dumps({"text": f"{i} {i * i}"}) + "\n" for i in range(2000)).encode()
    path.write_bytes(gzip.compress(lines)[:-2000])
    with pytest.raises(IntegrityError, match=r"a.jsonl.gz is damaged after line [0-9]+"):
        list(documents(str(path)))
