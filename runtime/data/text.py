"""Text corpora as documents: the built-in one, text files, directories, JSON lines, Parquet columns."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data import topics
from typing import BinaryIO

from moec.runtime.data.parquet import parquet_texts
from moec.runtime.errors import InputOutputError, IntegrityError, UserError

BUILTIN = "builtin:python-docs"
DEFAULT_FIELD = "text"
LINES = (".jsonl", ".jsonl.gz")
COLUMNS = (".parquet",)
SUFFIXES = (".txt", ".text", ".md", ".rst", *LINES, *COLUMNS)  # of the files taken from a directory
MAX_TEXT_BYTES = 1 << 30  # every rank tokenises a text corpus into memory; larger ones go through .bin/.idx
MAX_LINE_BYTES = 64 << 20


@dataclass(frozen=True)
class Document:
    """A text, and how many bytes of the corpus were read for it, about."""

    text: str
    read_bytes: int


def documents(data: str) -> Iterator[str]:
    """The documents of a corpus, in an order that depends on nothing but names and contents.

    `data` is `builtin:python-docs` (the help topics of CPython), a text file (one document), a `.jsonl` or
    `.jsonl.gz` file or `file.jsonl:field` (one document a line), a `.parquet` file or `file.parquet:column`
    (one document a row), or a directory: its files with one of `SUFFIXES`, at any depth, sorted by path,
    hidden ones left out. Field and column are `text` where none is given. More than `MAX_TEXT_BYTES`, on disk
    or unpacked, are refused.

    Raises:
        UserError: nothing there, nothing usable in it, too large, or not UTF-8, JSON or Parquet (with file
            and line).
        IntegrityError: a file is damaged.
        InputOutputError: reading failed.
        EnvironmentMismatch: a package that reads such files is not installed.
    """
    if (total_bytes := size_bytes(data)) > MAX_TEXT_BYTES:
        raise UserError(_too_large(data, str(total_bytes)))
    left = MAX_TEXT_BYTES
    for document in read_documents(data):
        left -= len(document.text)
        if left < 0:
            raise UserError(_too_large(data, f"more than {MAX_TEXT_BYTES}"))
        yield document.text


def read_documents(data: str) -> Iterator[Document]:
    """As `documents`, of any size, with what was read for each."""
    if data == BUILTIN:
        yield from (Document(topics.topics[n], len(topics.topics[n])) for n in sorted(topics.topics))
        return
    for path, field in _files(data):
        if path.name.endswith(LINES):
            yield from _json_lines(path, field)
        elif path.name.endswith(COLUMNS):
            file_bytes = path.stat().st_size
            for text, part in parquet_texts(path, field):
                yield Document(text, int(part * file_bytes))
        else:
            text = _text(path)
            yield Document(text, len(text))


def size_bytes(data: str) -> int:
    """How large a corpus is on disk. Errors as of `documents`."""
    if data == BUILTIN:
        return sum(map(len, topics.topics.values()))
    try:
        return sum(file.stat().st_size for file, _ in _files(data))
    except OSError as error:
        raise InputOutputError(f"cannot read {error.filename}: {error.strerror}") from error


def check_files(data: str) -> None:
    """Raises UserError if there is no corpus at `data`; reads nothing."""
    if data != BUILTIN:
        _files(data)


def _files(data: str) -> list[tuple[Path, str]]:
    """The files of a corpus, each with the field that holds its text."""
    path = Path(data)
    if os.path.isdir(data):  # false as well where Path.is_dir raises
        found = sorted(file for file in path.rglob("*") if _is_corpus_file(file, path))
        if not found:
            raise UserError(f"{data} holds no file that ends in {', '.join(SUFFIXES)}")
        return [(file, DEFAULT_FIELD) for file in found]
    if os.path.isfile(data):
        return [(path, DEFAULT_FIELD)]
    name, separator, field = data.rpartition(":")
    if separator and field and name.endswith((*LINES, *COLUMNS)) and os.path.isfile(name):
        return [(Path(name), field)]
    raise UserError(f"no data at {data}: neither {BUILTIN} nor a file or directory")


def _is_corpus_file(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.name.endswith(SUFFIXES) and not hidden and os.path.isfile(file)


def _too_large(data: str, size: str) -> str:
    return (
        f"{data} has {size} bytes; text is read into memory, {MAX_TEXT_BYTES} bytes at most: "
        f"give a larger corpus as .bin/.idx files, which `moec tokenize` makes"
    )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise InputOutputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def _json_lines(path: Path, field: str) -> Iterator[Document]:
    packed = path.suffix == ".gz"
    try:
        with path.open("rb") as file:
            lines: BinaryIO = gzip.GzipFile(fileobj=file) if packed else file  # type: ignore[assignment]
            number = before = 0
            while line := lines.readline(MAX_LINE_BYTES + 1):
                number += 1
                place, before = before, file.tell()
                if not line.isspace():
                    yield Document(_document(line, field, f"{path}:{number}"), before - place)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise IntegrityError(f"{path} is damaged after line {number}: {error}") from error
    except OSError as error:
        raise InputOutputError(f"cannot read {path}: {error.strerror}") from error


def _document(line: bytes, field: str, where: str) -> str:
    """The text of one JSON line."""
    if len(line) > MAX_LINE_BYTES:
        raise UserError(f"{where}: the line has more than {MAX_LINE_BYTES} bytes")
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise UserError(f"{where}: not a JSON object")
    if field not in value:
        found = ", ".join(sorted(value)[:10]) or "none"
        raise UserError(f'{where}: no field "{field}"; the fields are: {found}')
    text = value[field]
    if not isinstance(text, str):
        raise UserError(f'{where}: the field "{field}" is not a string')
    return _encodable(text, where)


def _encodable(text: str, where: str) -> str:
    r"""JSON can write half a character (`\ud800`), which no encoding of text can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: half a surrogate pair at character {error.start}") from error
    return text
