"""Tokenizers: bytes, and `tokenizer.json` of Hugging Face."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from moec.runtime.errors import EnvironmentMismatch, InputOutputError, UserError

if TYPE_CHECKING:
    import tokenizers

MAX_TOKENIZER_BYTES = 256 << 20  # the largest published ones have some 35 MB

# How published models write the end of a document, in the order they are looked for. What else a file defines
# (<|im_end|>, <|eot_id|>) ends the turns of a chat.
END_OF_DOCUMENT = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",  # noqa: RUF001 (DeepSeek's own characters)
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<eod>",
    "<EOD>",
)


class Tokenizer(Protocol):
    """Text to token ids."""

    @property
    def vocab(self) -> int:
        """One more than the highest id it can give, end of document included."""
        ...

    @property
    def end_of_document(self) -> int:
        """The id that stands between two documents."""
        ...

    def encode(self, text: str) -> NDArray[np.integer]:
        """The ids of a text (n,), without any token of beginning or end."""
        ...


class ByteTokenizer:
    """One token per byte of UTF-8, ids 0..255, and 256 between documents."""

    vocab = 257
    end_of_document = 256

    def encode(self, text: str) -> NDArray[np.integer]:
        """See `Tokenizer.encode`."""
        return np.frombuffer(text.encode(), dtype=np.uint8)


class JsonTokenizer:
    """A `tokenizer.json`, without its truncation, padding and post-processing (added `<s>` and the like).

    Raises:
        UserError: no such file, too large, not a tokenizer, or `end_of_document` cannot be told.
        InputOutputError: the file cannot be read.
        EnvironmentMismatch: the tokenizers library is not installed.
    """

    def __init__(self, path: Path, end_of_document: str | None = None) -> None:
        self._path = path
        self._tokenizer = _load(path)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.vocab = 1 + max(self._tokenizer.get_vocab().values(), default=-1)
        self.end_of_document = _end_of_document(self._tokenizer, path, end_of_document)

    def encode(self, text: str) -> NDArray[np.integer]:
        """See `Tokenizer.encode`."""
        with _errors_as_ours(f"{self._path} cannot encode a document"):
            encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return np.asarray(encoding.ids, dtype=np.int64)


def open_tokenizer(value: str | None = None, end_of_document: str | None = None) -> Tokenizer:
    """`bytes` (or None), the path of a `tokenizer.json`, or a directory that holds one.

    `end_of_document` names the token between documents, as text or as a decimal id; without it, the first of
    `END_OF_DOCUMENT` that the file defines.

    Raises:
        UserError, InputOutputError, EnvironmentMismatch: see `JsonTokenizer`.
    """
    if value is None or value == "bytes":
        if end_of_document is not None:
            raise UserError(
                "--end-of-document is for a --tokenizer: without one, the end of a document is id 256"
            )
        return ByteTokenizer()
    path = Path(value)
    return JsonTokenizer(path / "tokenizer.json" if os.path.isdir(value) else path, end_of_document)


def _load(path: Path) -> tokenizers.Tokenizer:
    if not os.path.isfile(path):  # false as well where Path.is_file raises
        raise UserError(
            f"no tokenizer at {path}: `bytes`, a tokenizer.json or a directory with one is expected"
        )
    try:
        if (size := os.stat(path).st_size) > MAX_TOKENIZER_BYTES:
            raise UserError(f"{path} has {size} bytes; a tokenizer.json may have {MAX_TOKENIZER_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise InputOutputError(f"cannot read {path}: {error.strerror}") from error
    library = _library()
    with _errors_as_ours(f"{path} is not a Hugging Face tokenizer.json"):
        made: tokenizers.Tokenizer = library.Tokenizer.from_buffer(content)
    return made


def _library() -> ModuleType:
    try:
        import tokenizers
    except ImportError as error:
        raise EnvironmentMismatch(
            f"a tokenizer.json needs the tokenizers library, which cannot be loaded: {error}"
        ) from error
    return tokenizers


@contextmanager
def _errors_as_ours(message: str) -> Iterator[None]:
    """The tokenizers library raises bare `Exception`, and its Rust side panics past that."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise UserError(f"{message}: {error}") from error


def _end_of_document(tokenizer: tokenizers.Tokenizer, path: Path, wanted: str | None) -> int:
    if wanted is not None:
        return _given(tokenizer, path, wanted)
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items()}
    for text in END_OF_DOCUMENT:
        if text in added:
            return int(added[text])
    known = ", ".join(sorted(added)[:20]) or "none"
    raise UserError(
        f"{path} has no token known to end a document ({', '.join(END_OF_DOCUMENT)}); "
        f"say which one does, with --end-of-document. Its added tokens: {known}"
    )


def _given(tokenizer: tokenizers.Tokenizer, path: Path, wanted: str) -> int:
    number = tokenizer.token_to_id(wanted)
    if number is None and wanted.isascii() and wanted.isdigit() and len(wanted) < 10:
        number = int(wanted) if tokenizer.id_to_token(int(wanted)) is not None else None
    if number is None:
        raise UserError(f"{path} has no token {wanted}, given as the end of a document")
    return int(number)
