"""What an argument or a setting can be, read from the words of its entry in the tables."""

from __future__ import annotations

import re
from functools import cache

from moec.dsl.vocabulary import CONSTRUCTS, Param, of_role

_NOT_WORDS = frozenset(("count", "number", "numbers", "degree", "steps", "value", "bytes", "tokens"))


@cache
def words(param: Param) -> tuple[str, ...]:
    """The words it takes: `none` of `count or none`, `max` and `top2_sum` of `max or top2_sum`."""
    if param.value == "layer":
        return ()  # its number
    pieces = (piece.strip() for piece in re.split(r", | or ", param.value))
    return tuple(piece for piece in pieces if piece.isidentifier() and piece not in _NOT_WORDS)


@cache
def constructs(param: Param) -> tuple[str, ...]:
    """The constructs it takes."""
    roles = [role for role in param.takes if role != "component"]
    named = [name for name in re.findall(r"(\w+)\(", param.value) if name in CONSTRUCTS]
    norms = ["rms_norm", "layer_norm"] if re.search(r"\bnorm\b", param.value) and not named else []
    of_roles = [name for role in roles for name in of_role(role)]
    return tuple(dict.fromkeys((*named, *norms, *of_roles)))


@cache
def counted(param: Param) -> bool:
    """Whether it takes `N of f(W)`."""
    return param.value.startswith("N of")


@cache
def takes_names(param: Param) -> bool:
    """Whether a name in it can be that of a binding: a number, a norm, a network."""
    return bool(re.search(r"\b(count|number|numbers|layer|binding)\b|N of", param.value))


def means_word(name: str, param: Param | None) -> bool:
    """Whether a bare name is a word of the argument and no binding, however it is bound in the model."""
    if param is None:
        return name in ("none", "true", "false", "rest", "_", "layer", "x")
    return name in words(param) or (name in constructs(param) and "binding" not in param.value)
