"""The words of the language as data: every construct and block, its arguments, defaults and meaning.

The checker binds arguments against these tables, `fmt --explicit` prints their defaults, and the language
reference is made from them.
"""

from __future__ import annotations

from collections.abc import Iterable

from .attention import ATTENTION, PARTS
from .components import MIXTURE, NETWORKS, NORMS
from .construct import Construct as Construct
from .construct import Param as Param
from .construct import Role as Role
from .positions import POSITIONS
from .routing import BALANCE, STAGES
from .routing import CHOOSERS as CHOOSERS
from .routing import ROUTER_ORDER as ROUTER_ORDER
from .training import BLOCKS as BLOCKS
from .training import DEFAULT_SEQUENCE as DEFAULT_SEQUENCE
from .training import DEFAULT_STEPS as DEFAULT_STEPS
from .training import MODEL as MODEL
from .training import WORDS

CONSTRUCTS: dict[str, Construct] = {
    construct.name: construct
    for construct in (*NORMS, *ATTENTION, *NETWORKS, *MIXTURE, *POSITIONS, *PARTS, *STAGES, *BALANCE, *WORDS)
}


def of_role(*roles: Role, supported: bool = True) -> list[str]:
    """The names of some roles, those that can be compiled or those that cannot yet."""
    found = (x for x in CONSTRUCTS.values() if x.role in roles and x.supported == supported)
    return [construct.name for construct in found]


TOP_LEVEL = ("model", *BLOCKS, "checkpoint")
RESERVED = frozenset(("x", "layer", "layers", "embed", "logits", "none", "true", "false", "rest", "_"))


def takes_real(step: str) -> bool:
    """Whether a path that ends in `step` leads to a number that need not be whole."""
    if step in of_role("balance"):
        return True
    every = [*(p for construct in CONSTRUCTS.values() for p in construct.params), *BLOCKS["train"]]
    return any(param.name == step and param.real for param in every)


def counts_tokens(step: str) -> bool:
    """Whether a path that ends in `step` leads to a count of tokens, whose prefixes are powers of 1024."""
    every = [*(p for construct in CONSTRUCTS.values() for p in construct.params), *MODEL]
    return any(param.name == step and "count of tokens" in param.value for param in every)


def find(params: Iterable[Param], name: str) -> Param | None:
    """The parameter of this name."""
    return next((param for param in params if param.name == name), None)
