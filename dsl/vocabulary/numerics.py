"""What a run does about losses and gradients that are not sound."""

from __future__ import annotations

from .construct import Construct, Param

_FACTOR = Param(
    "factor",
    "number above 1",
    "3",
    derived=True,
    meaning="of `spike` only: how many times the median of the last 64 losses is a spike",
)

NUMERICS_WORDS = (
    Construct(
        "skip",
        "remedy",
        (Param("most", "count", "10"), _FACTOR),
        meaning="the step updates nothing, and the run goes on with the next batch. The run fails at one "
        "more than `most`, counted since it was started or resumed.",
    ),
    Construct(
        "rewind",
        "remedy",
        (Param("most", "count", "3"), _FACTOR),
        meaning="the step updates nothing, the state becomes that of the newest checkpoint, and the run goes "
        "on from there with the batch that follows: batches since the checkpoint are passed over. The run "
        "fails at one more than `most`, counted since it was started or resumed.",
    ),
    Construct(
        "warn", "warning", (_FACTOR,), meaning="a loss above `factor` times the median is said, and no more."
    ),
)

NUMERICS = (
    Param(
        "nonfinite",
        "stop, skip(...) or rewind(...)",
        "stop",
        takes=("remedy",),
        meaning="where a loss or the norm of the gradients is NaN or infinite; nothing is updated then",
    ),
    Param(
        "spike",
        "none, warn(...), skip(...) or rewind(...)",
        "none",
        takes_none=True,
        takes=("warning", "remedy"),
        opened="warn()",
        meaning="where the loss exceeds `factor` times the median of the last 64 losses, from the 17th on",
    ),
)
