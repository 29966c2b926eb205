"""The `memory` block: what is kept between forward and backward, and where."""

from __future__ import annotations

from .construct import Construct, Param

MEMORY_WORDS = (
    Construct(
        "auto",
        "recompute",
        (Param("budget", "bytes"),),
        positional=True,
        meaning="of every kind of layer the components whose values are made again with the least work, so "
        "that what a rank keeps from forward to backward, at balanced routing, fits the budget",
    ),
    Construct(
        "activations",
        "offload",
        (
            Param("horizon", "count of regions", "2", meaning="how far ahead of its backward it comes back"),
            Param("least", "bytes", "1MiB", meaning="what is smaller stays"),
        ),
        meaning="values kept for backward wait in host memory, all but those of the last regions, which are "
        "needed at once",
    ),
)

MEMORY: tuple[Param, ...] = (
    Param(
        "recompute",
        "none, attention, experts, layer, full, a list of components or auto(...)",
        "none",
        takes_none=True,
        takes=("recompute",),
        meaning="what backward makes again instead of keeping it",
        opened="auto",
    ),
    Param(
        "offload",
        "none or activations(...)",
        "none",
        takes_none=True,
        takes=("offload",),
        meaning="what waits in host memory",
        opened="activations",
    ),
    Param("gathered", "free or keep", "free", meaning="whole parameters between forward and backward"),
    Param(
        "loss_chunk",
        "none or count of tokens",
        "none",
        takes_none=True,
        meaning="how many tokens of a rank have logits at a time",
    ),
    Param("imbalance", "number", supported=False),
    Param("device", "bytes", supported=False),
)
