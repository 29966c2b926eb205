"""The table of families: each plain, and in rows of their own what else its config can say."""

from __future__ import annotations

from . import corrected, softmax, unshipped, wide
from .family import Family

FAMILIES: dict[str, Family] = {
    **softmax.FAMILIES,
    **corrected.FAMILIES,
    **wide.FAMILIES,
    **unshipped.FAMILIES,
}
