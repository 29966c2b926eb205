"""`moec tokenize`: a text corpus into a Megatron dataset, by several processes.

Documents go to processes in batches, and come back in the order in which they went: the files are the same
for any number of processes. They hold what a run on the text itself would read: the same ids, the same
documents.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moec.runtime.data.megatron import write_megatron
from moec.runtime.data.source import ended, megatron_prefix
from moec.runtime.data.text import Document, check_files, read_documents, size_bytes
from moec.runtime.data.tokenizer import Tokenizer, open_tokenizer
from moec.runtime.errors import InternalError, UserError

BATCH_CHARACTERS = 1 << 20
BATCH_DOCUMENTS = 1 << 12
AHEAD = 3  # batches a process, waiting or done: bounds what is in memory

Ids = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class TokenizeOptions:
    """Corpora, one after the other, and how text becomes tokens; `processes` None: one for each core."""

    data: tuple[str, ...]
    tokenizer: str | None = None
    end_of_document: str | None = None
    processes: int | None = None


@dataclass
class Progress:
    """How far it has come: bytes of the corpora that were read, documents and tokens that were written."""

    read_bytes: int = 0
    documents: int = 0
    tokens: int = 0


def tokenize_to(prefix: Path, options: TokenizeOptions, show: Callable[[Progress], None]) -> Progress:
    """Write `prefix`.bin and `prefix`.idx; both take their names when both are complete.

    `show` is called as documents are done.

    Raises:
        UserError: data is not there, is tokens already, or is not text; or as `open_tokenizer`.
        IntegrityError: a file of the data is damaged.
        InputOutputError: reading or writing failed.
    """
    check_text(options.data)
    tokenizer = open_tokenizer(options.tokenizer, options.end_of_document)
    count = options.processes or len(os.sched_getaffinity(0))
    progress = Progress()
    texts = (document for data in options.data for document in read_documents(data))
    ids = _counted(_encoded(texts, options, tokenizer, count), progress, show)
    progress.tokens = write_megatron(prefix, ended(ids, tokenizer.end_of_document), tokenizer.vocab)
    return progress


def check_text(data: Sequence[str]) -> int:
    """The bytes of corpora of text, all together. Raises UserError if one is tokens, or not there."""
    for one in data:
        if megatron_prefix(one) is not None:
            raise UserError(f"{one} has token ids already: there is nothing to tokenize")
        check_files(one)
    return sum(map(size_bytes, data))


def _counted(
    encoded: Iterable[tuple[int, list[Ids]]], progress: Progress, show: Callable[[Progress], None]
) -> Iterator[Ids]:
    for read_bytes, documents in encoded:
        for ids in documents:
            yield ids
            progress.documents += 1
            progress.tokens += len(ids)
        progress.read_bytes += read_bytes
        show(progress)


def _encoded(
    texts: Iterable[Document], options: TokenizeOptions, tokenizer: Tokenizer, processes: int
) -> Iterator[tuple[int, list[Ids]]]:
    """Batches in order: the bytes read for them, and the ids of each document."""
    if processes == 1:
        for read_bytes, batch in _batches(texts):
            yield read_bytes, [tokenizer.encode(text) for text in batch]
        return
    context = get_context("spawn")  # a fork would share locks of threads that are not there
    arguments = (options.tokenizer, options.end_of_document)
    with ProcessPoolExecutor(processes, context, _open_here, arguments) as pool:
        waiting: deque[tuple[int, Future[list[Ids]]]] = deque()
        try:
            for read_bytes, batch in _batches(texts):
                waiting.append((read_bytes, pool.submit(_encode_here, batch)))
                if len(waiting) >= AHEAD * processes:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _done(read_bytes: int, future: Future[list[Ids]]) -> tuple[int, list[Ids]]:
    try:
        return read_bytes, future.result()
    except BrokenExecutor as error:
        raise InternalError(f"a process that tokenizes ended: {error}") from error


def _batches(texts: Iterable[Document]) -> Iterator[tuple[int, list[str]]]:
    """Consecutive documents, some `BATCH_CHARACTERS` of them, and the bytes read for them."""
    batch: list[str] = []
    characters = read_bytes = 0
    for document in texts:
        batch.append(document.text)
        characters += len(document.text)
        read_bytes += document.read_bytes
        if characters >= BATCH_CHARACTERS or len(batch) >= BATCH_DOCUMENTS:
            yield read_bytes, batch
            batch, characters, read_bytes = [], 0, 0
    if batch:
        yield read_bytes, batch


# --- in a process that tokenizes ---

_tokenizer: Tokenizer | None = None


def _open_here(tokenizer: str | None, end_of_document: str | None) -> None:
    global _tokenizer  # noqa: PLW0603  (one a process, opened as it starts)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _tokenizer = open_tokenizer(tokenizer, end_of_document)


def _encode_here(batch: list[str]) -> list[Ids]:
    assert _tokenizer is not None
    return [_tokenizer.encode(text) for text in batch]
