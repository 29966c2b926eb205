"""From a `--data` value to a token stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from moec.runtime.data.megatron import MegatronStream
from moec.runtime.data.stream import ArrayStream, TokenStream
from moec.runtime.data.text import check_files, documents
from moec.runtime.data.tokenizer import Tokenizer
from moec.runtime.errors import UserError


def open_stream(data: str, tokenizer: Tokenizer, vocab: int) -> TokenStream:
    """The tokens of a corpus for a model of `vocab` ids.

    `data` is what `text.documents` takes, or a Megatron dataset: its common prefix, its `.bin` or its
    `.idx`, of which the tokenizer is not asked.

    Raises:
        UserError: an id of a text that is not below `vocab`.
        UserError, InputOutputError, IntegrityError: as `text.documents` and `MegatronStream` raise them.
    """
    prefix = _megatron_prefix(data)
    if prefix is not None:
        return MegatronStream(prefix, vocab)
    return ArrayStream(data, joined(documents(data), tokenizer), vocab)


def check_exists(data: str) -> None:
    """Raises UserError if `open_stream` would find nothing there; reads nothing."""
    prefix = _megatron_prefix(data)
    if prefix is None:
        check_files(data)
        return
    for path in (Path(f"{prefix}.idx"), Path(f"{prefix}.bin")):
        if not os.path.isfile(path):
            raise UserError(f"no file {path}")


def joined(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.integer]]:
    """The ids of each document, with the end of document between two: all but the last are followed by it."""
    end = np.array([tokenizer.end_of_document], np.min_scalar_type(tokenizer.end_of_document))
    previous: NDArray[np.integer] | None = None
    for text in texts:
        if previous is not None:
            yield np.concatenate((previous, end))
        previous = tokenizer.encode(text)
    if previous is not None:
        yield previous


def _megatron_prefix(data: str) -> Path | None:
    """`corpus` of `corpus`, `corpus.bin` or `corpus.idx`; None if that is no Megatron dataset."""
    if data.endswith((".bin", ".idx")):
        return Path(data[:-4])
    if not os.path.exists(data) and os.path.exists(f"{data}.idx"):
        return Path(data)
    return None
