"""How long the memory of tensors lives, whatever views there are of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef


class Life:
    """Of the memory behind a tensor, which this does not prolong."""

    def __init__(self, x: Tensor) -> None:
        self.bytes = x.untyped_storage().nbytes()
        self._storage: Any = StorageWeakRef(x.untyped_storage())  # type: ignore[no-untyped-call]

    @property
    def key(self) -> int:
        """An identity of the memory, of no other one as long as this is there."""
        return int(self._storage.cdata)

    def goes_on(self) -> bool:
        """Whether anything still holds the memory."""
        return not self._storage.expired()
