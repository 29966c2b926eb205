"""propagate: compute the fake value of every node anew, after a pass changed what shapes depend on.

Cutting the experts changes how many there are here, and rows that arrive by all-to-all have a size of their
own: what is computed from them follows.
"""

from __future__ import annotations

from moec.compiler.graph import PartitionedRegion
from moec.compiler.values import compute_values


def propagate(region: PartitionedRegion) -> None:
    """Edit the values of `region` in place."""
    compute_values(region)
