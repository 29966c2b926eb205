"""A model: layers as equations over the residual stream, the embedding before them and the output after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from .components import Ffn, Gqa, LayerNorm, Mla, RmsNorm
from .origin import NOWHERE, Origin
from .routing import Moe

Component = RmsNorm | LayerNorm | Gqa | Mla | Ffn | Moe


@dataclass(frozen=True)
class Var:
    """The value of a name: the residual stream `x`, or a local of the layer."""

    name: str
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Call:
    """A component applied to a value. `path` prefixes the names of its parameters, e.g. `attention.norm`."""

    path: str
    component: Component
    argument: Expression
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Sum:
    """The sum of several values."""

    terms: tuple[Expression, ...]
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Scaled:
    """A value times a number."""

    factor: float
    value: Expression
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


Expression = Var | Call | Sum | Scaled


def calls(expression: Expression) -> Iterator[Call]:
    """All calls of an expression, inner ones first: the order in which they are computed."""
    match expression:
        case Call(argument=argument):
            yield from calls(argument)
            yield expression
        case Sum(terms):
            for term in terms:
                yield from calls(term)
        case Scaled(value=value):
            yield from calls(value)


@dataclass(frozen=True)
class Equation:
    """`target += value` (a residual branch) or `target = value`."""

    target: str
    add: bool
    value: Expression
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Layer:
    """One layer with every `match` decided. Layers of one kind are equal."""

    equations: tuple[Equation, ...]
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)

    def calls(self) -> Iterator[Call]:
        """All calls of its equations, in the order in which they are computed."""
        for equation in self.equations:
            yield from calls(equation.value)


@dataclass(frozen=True)
class Embed:
    """`x = scale * norm(embed(tokens))`: what the first layer is given. The norm's weight is named by its
    binding."""

    scale: float = 1.0
    norm: Call | None = None  # its argument is Var("x")
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class Head:
    """`logits = softcap(scale * linear(norm(x)), cap)`; the matrix is named `logits`, or is that of `embed`
    if `tied`.

    A `bias` is named `logits_bias`.
    """

    argument: Expression
    tied: bool = False
    bias: bool = False
    scale: float = 1.0
    softcap: float | None = None
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)


@dataclass(frozen=True)
class ModelSpec:
    """What is computed, and nothing about machines."""

    name: str
    vocab: int
    width: int
    context: int  # the longest sequence, in tokens
    layers: tuple[Layer, ...]
    head: Head
    embed: Embed = Embed()
    init_std: float = 0.02  # matrices are drawn from a normal distribution of this deviation
    origin: Origin = field(default=NOWHERE, compare=False, repr=False)
