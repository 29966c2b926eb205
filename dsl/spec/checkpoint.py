"""The weight map: how the parameters of a model lie in a published checkpoint, and its config.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .origin import NOWHERE, Origin

ConfigValue = str | int | float | bool | None | tuple[str, ...] | tuple[int, ...]


@dataclass(frozen=True)
class ConfigEntry:
    """One key of a published `config.json`: bound to paths of the model, or expected to hold a constant.

    `keys` are spellings of the same fact, the one to write first (dots descend into objects). A file may lack
    a key that holds a constant; one bound to `paths` must be there unless `has_default`, and is then taken as
    `default`. `per_layer`: the constant stands once for every layer, in a list.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...] = ()
    constant: ConfigValue = None
    has_default: bool = False
    default: ConfigValue = None
    per_layer: bool = False
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Form:
    """One step of how a tensor of a file is made of parameters.

    stack: `count` elements on a new leading dim. concat: `count` elements after one another along dim 0.
    interleave: the rows
    of `count` elements in turns. transpose: the last two dims swapped.
    """

    kind: Literal["stack", "concat", "interleave", "transpose"]
    count: int = 1


@dataclass(frozen=True)
class FileTensor:
    """One tensor of a published checkpoint, made of `parameters` (full names) by `forms`, the outermost
    first.

    `stack(e, transpose(concat(..)))` of {gate, up} with 8 experts: forms (stack 8, transpose, concat 2),
    parameters gate of
    expert 0, up of expert 0, gate of expert 1, ... A plain tensor has one parameter and no forms.
    """

    name: str
    parameters: tuple[str, ...]
    forms: tuple[Form, ...] = ()


@dataclass(frozen=True)
class Checkpoint:
    """`checkpoint huggingface`: a bijection between parameters and tensors, proved by the checker.

    Every parameter of the model, all layers and experts spelled out, is in exactly one of `tensors`.
    """

    tensors: tuple[FileTensor, ...]
    config: tuple[ConfigEntry, ...] = ()
    config_ignored: tuple[str, ...] = ()  # keys of a config.json that do not change what is computed
    ignored: tuple[
        str, ...
    ] = ()  # tensors of the published checkpoint that are not imported; `{}` matches a number
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    @property
    def plain(self) -> dict[str, str]:
        """Parameter -> tensor, of the tensors that hold one parameter as it is."""
        return {tensor.parameters[0]: tensor.name for tensor in self.tensors if not tensor.forms}
