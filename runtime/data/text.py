"""Text corpora as documents: the built-in one, text files, directories of them, and JSON lines."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

from moec.runtime.errors import InputOutputError, UserError

BUILTIN = "builtin:python-docs"
DEFAULT_FIELD = "text"
SUFFIXES = frozenset({".txt", ".text", ".md", ".rst", ".jsonl"})  # of the files taken from a directory
MAX_TEXT_BYTES = 1 << 30  # every rank tokenises a text corpus into memory; larger ones go through .bin/.idx
MAX_LINE_BYTES = 64 << 20


def documents(data: str) -> Iterator[str]:
    """The documents of a corpus, in an order that depends on nothing but names and contents.

    `data` is `builtin:python-docs` (the help topics of CPython), a text file (one document), a `.jsonl`
    file or `file.jsonl:field` (one document a line), or a directory: its files with one of `SUFFIXES`, at
    any depth, sorted by path, hidden ones left out.

    Raises:
        UserError: nothing there, nothing usable in it, too large, or not UTF-8 or JSON (with file and line).
        InputOutputError: reading failed.
    """
    if data == BUILTIN:
        yield from (topics.topics[name] for name in sorted(topics.topics))
        return
    files = _files(data)
    _check_size(data, [path for path, _ in files])
    for path, field in files:
        if path.suffix == ".jsonl":
            yield from _json_lines(path, field)
        else:
            yield _text(path)


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
            raise UserError(f"{data} holds no file that ends in {', '.join(sorted(SUFFIXES))}")
        return [(file, DEFAULT_FIELD) for file in found]
    if os.path.isfile(data):
        return [(path, DEFAULT_FIELD)]
    name, separator, field = data.rpartition(":")
    if separator and field and name.endswith(".jsonl") and os.path.isfile(name):
        return [(Path(name), field)]
    raise UserError(f"no data at {data}: neither {BUILTIN} nor a file or directory")


def _is_corpus_file(file: Path, root: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(root).parts)
    return file.suffix in SUFFIXES and not hidden and os.path.isfile(file)


def _check_size(data: str, files: list[Path]) -> None:
    try:
        total_bytes = sum(file.stat().st_size for file in files)
    except OSError as error:
        raise InputOutputError(f"cannot read {error.filename}: {error.strerror}") from error
    if total_bytes > MAX_TEXT_BYTES:
        raise UserError(
            f"{data} has {total_bytes} bytes; text is read into memory, {MAX_TEXT_BYTES} bytes at most: "
            f"give a larger corpus as Megatron .bin/.idx files"
        )


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise InputOutputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error.reason} at byte {error.start}") from error


def _json_lines(path: Path, field: str) -> Iterator[str]:
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if not line.isspace():
                    yield _document(line, field, f"{path}:{number}")
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
