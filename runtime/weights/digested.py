"""Files whose digest is made while they are written."""

from __future__ import annotations

import hashlib
import os
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moec.runtime.weights.index import FileEntry


class Digested:
    """A file whose SHA-256 is made on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._size_bytes = file, hashlib.sha256(), 0

    def write(self, content: memoryview) -> None:
        """Append `content`, one byte an item."""
        self._file.write(content)
        self._digest.update(content)
        self._size_bytes += len(content)

    def entry(self) -> FileEntry:
        """The file as it is now."""
        return FileEntry(self._size_bytes, self._digest.hexdigest())


def bytes_of(block: Tensor) -> memoryview:
    """The values in memory order, without a copy where they are on the CPU already."""
    values: NDArray[np.uint8] = block.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return values.data


def flush_file(file: BinaryIO) -> None:
    """Wait until what was written is on disk. Raises OSError."""
    file.flush()
    os.fsync(file.fileno())
