"""The weight map: how the parameters of a model lie in a published checkpoint, and its config.json."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal

from .origin import NOWHERE, Origin

ConfigScalar = str | int | float | bool | None
ConfigValue = ConfigScalar | tuple[ConfigScalar, ...]


@dataclass(frozen=True)
class ConfigArm:
    """`pattern => value` of a list with an entry a layer.

    `binding` is the name that the pattern is, if it is one of a list, a range or `every`, and `name` the one
    that `value` is, if it is one of a number. What is set on import is the name where there is one, or else
    the binding.
    """

    binding: str | None
    value: ConfigScalar
    name: str | None = None


@dataclass(frozen=True)
class ConfigEntry:
    """One key of a published `config.json`: bound to paths of the model, or expected to hold a constant.

    `keys` are spellings of the same fact, the one to write first (dots descend into objects). A file may lack
    a key that holds a constant; one bound to `paths` must be there unless `has_default`, and is then taken as
    `default`. `per_layer`: the constant stands once for every layer, in a list. `chosen`: for every layer the
    index of the arm that holds.
    """

    keys: tuple[str, ...]
    paths: tuple[str, ...] = ()
    constant: ConfigValue = None
    has_default: bool = False
    default: ConfigValue = None
    per_layer: bool = False
    arms: tuple[ConfigArm, ...] = ()
    chosen: tuple[int, ...] = ()
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    @property
    def layers(self) -> tuple[ConfigScalar, ...]:
        """The value of every layer, for an entry that has arms."""
        return tuple(self.arms[index].value for index in self.chosen)


@dataclass(frozen=True)
class Form:
    """One step of how a tensor of a file is made of parameters.

    stack: `count` elements on a new leading dim. concat: `count` elements after one another along dim 0.
    interleave: the rows of `count` elements in turns. transpose: the last two dims swapped.
    """

    kind: Literal["stack", "concat", "interleave", "transpose"]
    count: int = 1


@dataclass(frozen=True)
class FileTensor:
    """One tensor of a published checkpoint, made of `parameters` (full names) by `forms`, the outermost
    first.

    `stack(e, transpose(concat(..)))` of {gate, up} with 8 experts: forms (stack 8, transpose, concat 2),
    parameters gate of expert 0, up of expert 0, gate of expert 1, ... A plain tensor has one parameter and no
    forms.
    """

    name: str
    parameters: tuple[str, ...]
    forms: tuple[Form, ...] = ()


@dataclass(frozen=True)
class TensorGroup:
    """Tensors that differ in the number of an expert only, or one tensor.

    With `experts`, `{}` in `name` and `parameters` stands for that number: there is a tensor for every
    expert, or, if the form at `over_experts` has an element for every expert, one of all. `parameters` are
    then those of one expert. Experts are counted from `first`.
    """

    name: str
    parameters: tuple[str, ...]
    forms: tuple[Form, ...] = ()
    experts: int | None = None
    over_experts: int | None = None
    first: int = 0

    def tensors(self) -> Iterator[FileTensor]:
        """The tensors one by one."""
        if self.experts is None:
            yield FileTensor(self.name, self.parameters, self.forms)
        elif self.over_experts is None:
            for expert in range(self.first, self.first + self.experts):
                yield FileTensor(_of(self.name, expert), self._of_expert(expert), self.forms)
        else:
            yield FileTensor(self.name, self._of_all_experts(self.over_experts), self.forms)

    def _of_expert(self, expert: int) -> tuple[str, ...]:
        return tuple(_of(parameter, expert) for parameter in self.parameters)

    def _of_all_experts(self, place: int) -> tuple[str, ...]:
        """The parameters in the order of the forms: those outside of the one over experts are slower."""
        inner = prod(form.count for form in self.forms[place + 1 :])
        blocks = [self.parameters[i : i + inner] for i in range(0, len(self.parameters), inner)]
        experts = range(self.experts or 0)
        return tuple(_of(name, expert) for block in blocks for expert in experts for name in block)


def _of(name: str, expert: int) -> str:
    return name.replace("{}", str(expert))


@dataclass(frozen=True)
class Blanks:
    """Tensors that files may hold for experts without parameters: passed over on import, zeros on export.

    transformers saves such tensors of LongCat-Flash, all of one shape.
    """

    group: TensorGroup
    shape: tuple[int, ...]

    def tensors(self) -> Iterator[str]:
        """Their names."""
        return (tensor.name for tensor in self.group.tensors())


@dataclass(frozen=True)
class Checkpoint:
    """`checkpoint huggingface`: a bijection between parameters and tensors, proved by the checker.

    Every parameter of the model, all layers and experts spelled out, is in exactly one of `tensors`.
    """

    groups: tuple[TensorGroup, ...]
    config: tuple[ConfigEntry, ...] = ()
    config_ignored: tuple[str, ...] = ()  # keys of a config.json that do not change what is computed
    ignored: tuple[
        str, ...
    ] = ()  # tensors of the published checkpoint that are not imported; `{}` matches a number
    blanks: tuple[Blanks, ...] = ()
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    @cached_property
    def tensors(self) -> tuple[FileTensor, ...]:
        """All tensors, in the order of the model's parameters."""
        return tuple(tensor for group in self.groups for tensor in group.tensors())

    @property
    def tensor_count(self) -> int:
        """How many tensors there are, without spelling them out."""
        return sum(1 if x.over_experts is not None else x.experts or 1 for x in self.groups)
