"""Text columns of Parquet files, through pyarrow: the optional extra `data`.

A file is read a batch of rows at a time, so memory holds one row group's pages and not the file. What a file
says of its own sizes is bounded before it is believed: the footer, its strings and lists, and what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import EnvironmentMismatch, InputOutputError, IntegrityError, UserError

if TYPE_CHECKING:
    import pyarrow.parquet

SUFFIX = ".parquet"
MAX_FOOTER_BYTES = 256 << 20
MAX_ROW_BYTES = 64 << 20
_MAX_STRING_BYTES, _MAX_CONTAINER = 16 << 20, 1 << 20  # of the footer's own fields
_ROWS = 256
_TAIL_BYTES = 8  # length of the footer, and the magic
_MAGIC = b"PAR1"


def parquet_texts(path: Path, column: str) -> Iterator[tuple[str, float]]:
    """The texts of a column, in order, each with the part of the file that it is of all.

    Raises:
        UserError: no such column, or it does not hold text in every row.
        IntegrityError: the file is damaged, or its sizes cannot be true; it names file and row.
        InputOutputError: reading failed.
        EnvironmentMismatch: pyarrow is not installed.
    """
    _check_footer(path)
    library = _library()
    with _errors_as_ours(path), _opened(library, path) as file:
        _check_column(file, path, column)
        rows = file.metadata.num_rows
        yield from _rows(library, file, path, column, rows)


def _check_footer(path: Path) -> None:
    """The tail names the length of the footer, which is looked at before a library allocates it."""
    file = ReadOnlyFile(path)
    if file.size_bytes < len(_MAGIC) + _TAIL_BYTES or file.read(0, len(_MAGIC)) != _MAGIC:
        raise UserError(f"{path} is no Parquet file: it does not start with {_MAGIC.decode()}")
    tail = bytes(file.read(file.size_bytes - _TAIL_BYTES, _TAIL_BYTES))
    if tail[4:] != _MAGIC:
        raise IntegrityError(
            f"{path} is cut off or damaged: there is no {_MAGIC.decode()} at its end, byte {file.size_bytes}"
        )
    footer = int.from_bytes(tail[:4], "little")
    if footer > min(MAX_FOOTER_BYTES, file.size_bytes - len(_MAGIC) - _TAIL_BYTES):
        raise IntegrityError(f"{path}: its footer of {footer} bytes is larger than can be true")


@contextmanager
def _opened(library: ModuleType, path: Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    file = library.ParquetFile(
        path,
        thrift_string_size_limit=_MAX_STRING_BYTES,
        thrift_container_size_limit=_MAX_CONTAINER,
        page_checksum_verification=True,
    )
    try:
        yield file
    finally:
        file.close()


def _check_column(file: Any, path: Path, column: str) -> None:
    schema = file.schema_arrow
    if schema.names.count(column) != 1:
        found = ", ".join(schema.names[:10]) or "none"
        raise UserError(f'{path}: no column "{column}"; the columns are: {found}')
    kind = str(schema.field(column).type)
    if kind not in ("string", "large_string"):
        raise UserError(f'{path}: the column "{column}" holds {kind[:100]}, not text')


def _rows(library: ModuleType, file: Any, path: Path, column: str, rows: int) -> Iterator[tuple[str, float]]:
    row = 0
    for batch in file.iter_batches(batch_size=_ROWS, columns=[column], use_threads=False):
        for text in batch.column(0):
            found = text.as_py()
            if found is None:
                raise UserError(f'{path}: the column "{column}" has no text in row {row}')
            if len(found) > MAX_ROW_BYTES:
                raise UserError(f"{path}: row {row} has more than {MAX_ROW_BYTES} characters")
            yield found, 1 / max(rows, 1)
            row += 1
    if row != rows:
        raise IntegrityError(f"{path} says that it has {rows} rows, and has {row}")


def _library() -> ModuleType:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentMismatch(
            f"a .parquet file needs pyarrow (`pip install moec[data]`), which cannot be loaded: {error}"
        ) from error
    library: ModuleType = pyarrow.parquet
    return library


@contextmanager
def _errors_as_ours(path: Path) -> Iterator[None]:
    """Of pyarrow: ArrowInvalid and the like are ValueErrors, and OSErrors without a number are damage."""
    try:
        yield
    except OSError as error:
        if error.errno is not None:
            raise InputOutputError(f"cannot read {path}: {error.strerror or error}") from error
        raise IntegrityError(f"{path} is damaged: {error}") from error
    except (ValueError, MemoryError, OverflowError, RuntimeError) as error:  # not supported: a RuntimeError
        raise IntegrityError(f"{path} is damaged, or not as pyarrow reads it: {error}") from error
