"""Settings of `train` that are about data: documents in one sequence, and validation."""

from __future__ import annotations

from .construct import Construct, Param

DATA_WORDS = (
    Construct(
        "evaluated",
        "validation",
        (
            Param("every", "count", "500", meaning="after so many steps, and after the last"),
            Param("batches", "count", "20", meaning="over so many batches of each set, or all it has"),
        ),
        meaning="the mean loss over the first batches of every set that `moec run --validation` names: the "
        "same sequences each time and at every layout, in the order of `seed`, nothing random, no update",
    ),
)

DATA: tuple[Param, ...] = (
    Param(
        "documents",
        "joined or separate",
        "joined",
        meaning="separate: attention and loss do not reach into another document of the same sequence, and "
        "positions start at 0 in each",
    ),
    Param(
        "validation",
        "none or evaluated(...)",
        "none",
        takes_none=True,
        takes=("validation",),
        opened="evaluated()",
        meaning="when held-out data is evaluated",
    ),
)
