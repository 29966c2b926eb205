"""How tokens reach the ranks of their experts."""

from __future__ import annotations

from .construct import Construct, Param

_SHUFFLE = Param(
    "shuffle",
    "true or false",
    "false",
    meaning="tokens are spread evenly over the ranks of the group before, and brought back after",
)

DISPATCH_WORDS = (
    Construct(
        "all_to_all",
        "dispatch",
        (_SHUFFLE,),
        meaning="every token goes to the ranks of the experts that it chose, and what they give comes back",
    ),
    Construct(
        "all_gather",
        "dispatch",
        (_SHUFFLE,),
        meaning="every rank gets all tokens of the group and takes those that chose its experts; what the "
        "ranks have for a token is summed. For a few experts a rank, of which a token chooses many",
    ),
)

DISPATCH = Param(
    "dispatch",
    "all_to_all(...) or all_gather(...)",
    "all_to_all()",
    takes=("dispatch",),
    meaning="how tokens reach the ranks of their experts, within an expert group",
)
