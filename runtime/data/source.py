"""From `--data` to token streams, and what tells data apart from other data."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moec.runtime.data.given import Given, parse_data
from moec.runtime.data.megatron import MegatronStream
from moec.runtime.data.samples import Source
from moec.runtime.data.stream import ArrayStream, TokenStream, fingerprint
from moec.runtime.data.text import check_files, documents
from moec.runtime.data.tokenizer import Tokenizer
from moec.runtime.errors import UserError


def open_sources(given: Sequence[Given], tokenizer: Tokenizer, vocab: int) -> tuple[Source, ...]:
    """The corpora of a run, each with its weight. Errors are those of `open_stream`."""
    return tuple(Source(open_stream(one.data, tokenizer, vocab), one.weight) for one in given)


def identity(sources: Sequence[Source], documents: bool = False) -> str:
    """A digest (hex) of all that decides, with sequence and seed, which sample comes when.

    It is of the corpora in their order and of their shares; of a single one, its `fingerprint`. `documents`:
    they are separate, so where they start counts as well.
    """
    found = [fingerprint(source.stream, documents) for source in sources]
    if len(found) == 1:
        return found[0]
    total = sum(source.weight for source in sources)
    shares = [f"{source.weight / total:.12e} {one}" for source, one in zip(sources, found, strict=True)]
    return hashlib.sha256("\n".join(["moec.mixture.v1", *shares]).encode()).hexdigest()


def open_stream(data: str, tokenizer: Tokenizer, vocab: int) -> TokenStream:
    """The tokens of a corpus for a model of `vocab` ids.

    `data` is what `text.documents` takes, or a Megatron dataset: its common prefix, its `.bin` or its
    `.idx`, of which the tokenizer is not asked.

    Raises:
        UserError: an id of a text that is not below `vocab`.
        UserError, InputOutputError, IntegrityError: as `text.documents` and `MegatronStream` raise them.
    """
    prefix = megatron_prefix(data)
    if prefix is not None:
        return MegatronStream(prefix, vocab)
    return ArrayStream(data, joined(documents(data), tokenizer), vocab)


def check_data(data: Sequence[str], validation: Sequence[str] = ()) -> None:
    """Raises UserError if a source is wrongly given, or not there; reads nothing."""
    for given in parse_data(data):
        check_exists(given.data)
    for path in validation:
        check_exists(path)


def check_exists(data: str) -> None:
    """Raises UserError if `open_stream` would find nothing there; reads nothing."""
    prefix = megatron_prefix(data)
    if prefix is None:
        check_files(data)
        return
    for path in (Path(f"{prefix}.idx"), Path(f"{prefix}.bin")):
        if not os.path.isfile(path):
            raise UserError(f"no file {path}")


def joined(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.integer]]:
    """The ids of each document, with the end of document between two: all but the last are followed by it."""
    return ended(map(tokenizer.encode, texts), tokenizer.end_of_document)


def ended(documents: Iterable[NDArray[np.integer]], end_of_document: int) -> Iterator[NDArray[np.integer]]:
    """Documents of ids, all but the last followed by the end of document."""
    end = np.array([end_of_document], np.min_scalar_type(end_of_document))
    previous: NDArray[np.integer] | None = None
    for document in documents:
        if previous is not None:
            yield np.concatenate((previous, end))
        previous = document
    if previous is not None:
        yield previous


def megatron_prefix(data: str) -> Path | None:
    """`corpus` of `corpus`, `corpus.bin` or `corpus.idx`; None if that is no Megatron dataset."""
    if data.endswith((".bin", ".idx")):
        return Path(data[:-4])
    if not os.path.exists(data) and os.path.exists(f"{data}.idx"):
        return Path(data)
    return None
