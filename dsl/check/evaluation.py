"""What the values of a model's bindings come to: numbers, and patterns as lists of layers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from moec.dsl import syntax as s
from moec.dsl.check.bindings import bindings, scope_of
from moec.dsl.check.layers import layer_count
from moec.dsl.check.matching import Matcher, is_pattern
from moec.dsl.check.values import Scope, plain, quantity
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.vocabulary import MODEL, RESERVED


@dataclass(frozen=True)
class Evaluation:
    """Values of the bindings of a sound model."""

    scope: Scope
    matcher: Matcher

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return self.matcher.total

    def resolve(self, expr: s.Expr) -> s.Expr:
        """What a name is bound to; any other expression as it is."""
        return self.scope.resolve(expr)

    def number(self, expr: s.Expr) -> Fraction:
        """A number, a name of one, or one that is computed. Raises Mistake."""
        return plain(expr, self.scope, "a number")

    def tokens(self, expr: s.Expr) -> Fraction:
        """A count of tokens, whose prefixes are powers of 1024. Raises Mistake."""
        return quantity(expr, self.scope, "a count of tokens").tokens

    def listed(self, pattern: s.Expr) -> list[int]:
        """The layers a pattern holds for. Raises Mistake."""
        return sorted(self.matcher.holds(pattern))

    def chosen(self, match: s.Match) -> list[int]:
        """For every layer, the index of the arm that holds. Raises Mistake."""
        arms = self.matcher.choose(match, range(self.layers))
        return [arms[layer] for layer in range(self.layers)]

    def is_layers(self, expr: s.Expr) -> bool:
        """Whether a name or expression stands for a pattern that can be written as a list of layers."""
        value = self.resolve(expr)
        return is_pattern(value) or isinstance(value, s.ListOf)


def evaluation(model: s.Block) -> Evaluation:
    """Of a model that has been checked."""
    settings = {setting.key: setting.value for setting in model.settings()}
    sizes = {param.name: settings[param.name] for param in MODEL if param.name in settings}
    bound = {name: value for name, value in settings.items() if name not in sizes and name not in RESERVED}
    bag = DiagnosticBag()  # the model is sound
    numbers = {name: value for name, value in sizes.items() if isinstance(value, s.Number)}
    scope = scope_of(bindings(bound, bag), numbers, bag)
    block = model.block("layers")
    assert block is not None
    return Evaluation(scope, Matcher(layer_count(block, scope), scope))
