"""Token streams: a corpus as one long row of token ids, read in slices."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from moec.runtime.errors import UserError

Ids = NDArray[np.int64]
_PROBES = 64
_PROBE_TOKENS = 4096


class TokenStream(Protocol):
    """A corpus of token ids; ids lie in 0..vocab - 1 of the model it was opened for."""

    @property
    def name(self) -> str:
        """What messages call it: a path, or `builtin:python-docs`."""
        ...

    def __len__(self) -> int:
        """Tokens in the whole stream."""
        ...

    def documents(self, start: int, count: int) -> Ids:
        """Where documents start among tokens start + 1..start + count - 1, in order: int64.

        A document that starts at `start` is not among them: nobody asks whether the first token is the first
        of one. Errors as of `read`.
        """
        ...

    def read(self, start: int, count: int) -> Ids:
        """Tokens start..start + count - 1, int64 (count,); safe to call from several threads.

        Raises:
            IndexError: the slice does not lie within the stream.
            UserError: a token id is not below the model's vocab.
            InputOutputError: the storage failed.
            IntegrityError: the storage does not hold what its index says.
        """
        ...


class ArrayStream:
    """A stream held in memory, in the smallest of three types that hold its ids; each piece is a document."""

    def __init__(self, name: str, pieces: Iterable[NDArray[np.integer]], vocab: int) -> None:
        self.name = name
        arrays = [_narrowed(piece) for piece in pieces]
        self._tokens = np.concatenate(arrays) if arrays else np.empty(0, np.uint16)
        self._ends = np.cumsum([len(array) for array in arrays], dtype=np.int64)
        check_ids(self._tokens, vocab, name)

    def __len__(self) -> int:
        return len(self._tokens)

    def read(self, start: int, count: int) -> Ids:
        """See `TokenStream.read`."""
        check_slice(self, start, count)
        return self._tokens[start : start + count].astype(np.int64)

    def documents(self, start: int, count: int) -> Ids:
        """See `TokenStream.documents`."""
        check_slice(self, start, count)
        first, last = np.searchsorted(self._ends, (start, start + count - 1), side="right")
        return np.unique(self._ends[first:last])


def fingerprint(stream: TokenStream, documents: bool = False) -> str:
    """A digest (hex) that tells corpora apart: of the length and of `_PROBES` slices spread evenly over it.

    It costs the same for a corpus of any size and is the same however the tokens are stored. A change
    between the slices of a large corpus that keeps its length goes unseen. With `documents`, it is also of
    where documents start in these slices.
    """
    digest = hashlib.sha256(f"moec.tokens.v1\n{len(stream)}\n".encode())
    count = min(_PROBE_TOKENS, len(stream))
    for probe in range(_PROBES):
        start = (len(stream) - count) * probe // (_PROBES - 1)
        digest.update(stream.read(start, count).astype("<i8").tobytes())
        if documents:
            digest.update(b"documents" + stream.documents(start, count).astype("<i8").tobytes())
    return digest.hexdigest()


def check_slice(stream: TokenStream, start: int, count: int) -> None:
    """Raises IndexError unless start..start + count - 1 lies within the stream."""
    if start < 0 or count < 0 or start + count > len(stream):
        raise IndexError(f"{stream.name} has {len(stream)} tokens; {count} from {start} on are not all there")


def check_ids(tokens: NDArray[np.integer], vocab: int, name: str, first: int = 0) -> None:
    """Raises UserError unless every id lies in 0..vocab - 1; tokens[0] is token `first` of the stream."""
    if not len(tokens) or (tokens.min() >= 0 and tokens.max() < vocab):
        return
    place = int(np.argmax((tokens < 0) | (tokens >= vocab)))
    raise UserError(
        f"{name}: token {first + place} has id {tokens[place]}, but the model's vocab is {vocab}: "
        f"its ids are 0 to {vocab - 1}"
    )


def _narrowed(ids: NDArray[np.integer]) -> NDArray[np.integer]:
    """The same ids in uint16, int32 or int64."""
    if not len(ids):
        return ids.astype(np.uint16)
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= 1 << 31:
        return ids.astype(np.int64)
    return ids.astype(np.uint16 if high < 1 << 16 else np.int32)
