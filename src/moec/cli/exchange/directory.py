"""Directories that appear whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from moec.runtime.data.files import flush_directory
from moec.runtime.errors import InputOutputError, UserError


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A directory beside `path` to fill, which takes that name at the end; after an error nothing is left.

    Raises:
        UserError: `check_new` says no.
        InputOutputError: writing failed.
    """
    check_new(path)
    whole = path.resolve()  # a link stays a link
    partial = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}.partial")
    try:
        partial.mkdir()
        yield partial
        flush_directory(partial)
        partial.rename(whole)
        flush_directory(whole.parent)
    except OSError as error:
        raise InputOutputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new(path: Path) -> None:
    """Nothing is at `path`, or an empty directory.

    Raises:
        UserError: otherwise, or the directory above does not exist.
    """
    if not path.resolve().parent.is_dir():
        raise UserError(f"cannot write {path}: there is no directory {path.parent}")
    if not os.path.lexists(path):
        return
    if not path.is_dir() or any(path.iterdir()):
        raise UserError(f"cannot write {path}: it exists already; name a new or an empty directory")


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on disk. Raises OSError."""
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
