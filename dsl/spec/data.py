"""What a run does with its data: documents in one sequence, and validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .origin import NOWHERE, Origin

Documents = Literal["joined", "separate"]
"""Whether the tokens of one sequence see those of other documents before them."""


@dataclass(frozen=True)
class Evaluated:
    """The loss of held-out data, after every `every` steps and the last, over `batches` batches."""

    every: int = 500
    batches: int = 20
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)
