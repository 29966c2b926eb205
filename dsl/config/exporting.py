"""A spec -> its config.json."""

from __future__ import annotations

from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.evaluation import Evaluation, evaluation
from moec.dsl.diagnostics import DiagnosticBag, Mistake
from moec.dsl.explicit import explicit
from moec.dsl.parse import parse_text
from moec.dsl.paths import NoPath, read
from moec.dsl.source import SourceText
from moec.dsl.vocabulary import counts_tokens, takes_real

from .keys import asked_by, checkpoint_of


def checkpoint_config(spec: m.Spec) -> dict[str, object]:
    """The config.json of a spec: every entry of its `config` block, under the first of its spellings.

    And that no token is padding: a family's default may lie beyond a smaller vocabulary.
    Raises SourceErrors where a value cannot be expressed.
    """
    checkpoint = checkpoint_of(spec)
    file = explicit(parse_text(SourceText("<resolved>", spec.text), DiagnosticBag()), spec)
    model = file.block("model")
    assert model is not None
    values = evaluation(model)
    bag = DiagnosticBag()
    config: dict[str, object] = {}
    for entry in checkpoint.config:
        value = bag.attempt(_exported, entry, file, values)
        _put(config, entry.keys[0], value)
    bag.raise_if_any()
    config.setdefault("pad_token_id", None)
    return config


def _exported(entry: m.ConfigEntry, file: s.File, values: Evaluation) -> object:
    if entry.arms:
        return list(entry.layers)
    if not entry.paths:
        constant = list(entry.constant) if isinstance(entry.constant, tuple) else entry.constant
        return [constant] * values.layers if entry.per_layer else constant
    found = [_value_at(file, path, entry, values) for path in entry.paths]
    if any(value != found[0] for value in found):
        label = f"`{entry.keys[0]}` holds one value, and {' and '.join(entry.paths)} differ"
        raise Mistake(c.CONFIG_VALUE.at(None, label, asked_by(entry)))
    return found[0]


def _value_at(file: s.File, path: str, entry: m.ConfigEntry, values: Evaluation) -> object:
    steps = path.split(".")
    try:
        expr = read(file, steps)
    except NoPath as error:
        if error.absent and entry.has_default and entry.default is None:
            return None
        raise Mistake(c.CONFIG_PATH.at(None, f"`{path}`: {error.label}", asked_by(entry))) from None
    try:
        return _value(expr, _Numbers(steps[-1], entry.default), values)
    except Mistake as mistake:
        label = f"`{path}`: {mistake.diagnostic.label}"
        raise Mistake(c.CONFIG_VALUE.at(None, label, asked_by(entry))) from None


@dataclass(frozen=True)
class _Numbers:
    """How the numbers of an entry are written: like its default, or else as the argument takes them."""

    name: str  # of the setting or argument
    default: m.ConfigValue

    def number(self, expr: s.Expr, values: Evaluation) -> float | int:
        """Raises Mistake."""
        number = values.tokens(expr) if counts_tokens(self.name) else values.number(expr)
        whole = number.denominator == 1 and not self._is_real(expr)
        return int(number) if whole else float(number)

    def _is_real(self, expr: s.Expr) -> bool:
        """Whether it is written with a point even if it is whole: so is what is computed."""
        if isinstance(self.default, int | float) and not isinstance(self.default, bool):
            return isinstance(self.default, float)
        if takes_real(self.name) or not isinstance(expr, s.Number):
            return True
        return any(letter in expr.text for letter in ".eE")


def _value(expr: s.Expr, numbers: _Numbers, values: Evaluation) -> object:
    """The value as JSON has it. Raises Mistake."""
    match expr:
        case s.Ref(names=("true" | "false" as word,)):
            return word == "true"
        case s.Ref(names=("none",)):
            return None
    bound = values.resolve(expr)
    if isinstance(bound, s.ListOf):
        return [numbers.number(item, values) for item in bound.items]
    if values.is_layers(bound):
        return values.listed(bound)
    return numbers.number(bound, values)


def _put(config: dict[str, object], key: str, value: object) -> None:
    """Set a dotted key, making the objects on the way."""
    *parents, last = key.split(".")
    for name in parents:
        inner = config.setdefault(name, {})
        assert isinstance(inner, dict)
        config = inner
    config[last] = value
