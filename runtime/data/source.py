"""From a `--data` value to a token stream."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from moec.runtime.data.stream import ArrayStream, TokenStream
from moec.runtime.data.text import documents
from moec.runtime.data.tokenizer import Tokenizer


def open_stream(data: str, tokenizer: Tokenizer, vocab: int) -> TokenStream:
    """The tokens of a corpus for a model of `vocab` ids.

    `data` is what `text.documents` takes.

    Raises:
        UserError, InputOutputError: see `text.documents`; or an id that is not below `vocab`.
    """
    return ArrayStream(data, joined(documents(data), tokenizer), vocab)


def joined(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[NDArray[np.integer]]:
    """The ids of each document, with the end of document between two: all but the last are followed by it."""
    end = np.array([tokenizer.end_of_document])
    previous: NDArray[np.integer] | None = None
    for text in texts:
        if previous is not None:
            yield np.concatenate((previous, end))
        previous = tokenizer.encode(text)
    if previous is not None:
        yield previous
