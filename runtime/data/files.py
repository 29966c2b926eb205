"""Files read by offset and files written whole or not at all; every failure names the file."""

from __future__ import annotations

import os
import secrets
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from moec.runtime.errors import InputOutputError, IntegrityError, UserError


class ReadOnlyFile:
    """A regular file of which any part can be read, from any thread.

    `pread` instead of a memory map: a storage that fails, or a file that another program shortens, then is
    an error with a name and an offset, where a map would end the process by a signal.

    Raises:
        UserError: no such file, or not a regular one.
        InputOutputError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        if not os.path.isfile(path):  # false as well where Path.is_file raises
            raise UserError(f"no file {path}")
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.size_bytes = os.fstat(self._descriptor).st_size
        except OSError as error:
            raise InputOutputError(f"cannot read {path}: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor)

    def read(self, offset_bytes: int, size_bytes: int) -> bytearray:
        """Exactly `size_bytes` bytes.

        Raises:
            InputOutputError: the system reports a failure.
            IntegrityError: the file ends too early.
        """
        content = bytearray(size_bytes)
        view, done = memoryview(content), 0
        while done < size_bytes:
            try:
                got = os.preadv(self._descriptor, [view[done:]], offset_bytes + done)
            except OSError as error:
                raise InputOutputError(
                    f"cannot read {self.path} at byte {offset_bytes + done}: {error.strerror}"
                ) from error
            if got == 0:
                raise IntegrityError(
                    f"{self.path} ends at byte {offset_bytes + done}; "
                    f"{size_bytes} bytes from {offset_bytes} on were expected"
                )
            done += got
        return content


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes its name when it is complete and on disk; after an error nothing is left.

    Raises:
        UserError: the directory does not exist.
        InputOutputError: writing failed.
    """
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no directory {path.parent}")
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise InputOutputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def flush_directory(path: Path) -> None:
    """Make the names in a directory last. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
