"""`config { ... }` of a weight map -> entries: what the keys of a config.json are, in terms of the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.evaluation import Evaluation, evaluation
from moec.dsl.check.values import EMPTY, is_none, plain, wrong_type
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.paths import BY_NAME, NoPath, read
from moec.dsl.quantities import group

_WORDS = ("true", "false", "none")


def strings(expr: s.Expr) -> tuple[str, ...]:
    """A list of strings. Raises Mistake."""
    if not isinstance(expr, s.ListOf):
        raise wrong_type(expr, "a list of strings")
    if len(expr.items) > limits.MATCH_ARMS:
        raise Mistake(c.TOO_LARGE.at(expr.span, f"at most {limits.MATCH_ARMS} names"))
    for item in expr.items:
        if not isinstance(item, s.String):
            raise wrong_type(item, "a string")
    return tuple(item.text for item in expr.items if isinstance(item, s.String))


def check_config_blocks(
    checkpoint: s.Block, file: s.File, sound: bool, bag: DiagnosticBag
) -> tuple[tuple[m.ConfigEntry, ...], tuple[str, ...]]:
    """The entries, and the keys that change nothing. Where the model is not sound, lists with an entry a
    layer are looked at for their form only."""
    model = file.block("model")
    reader = _Reader(file, evaluation(model) if sound and model is not None else None)
    entries: list[m.ConfigEntry] = []
    ignored: tuple[str, ...] = ()
    keys: dict[str, s.Target] = {}
    for setting in _settings(checkpoint, bag):
        if setting.targets[0].simple == "ignore":
            ignored = bag.attempt(strings, setting.value) or ()
            continue
        entry = bag.attempt(reader.entry, setting)
        entries += [entry] if entry is not None else []
        _report_repeated_keys(setting, keys, bag)
    _report_nested_keys(entries, keys, bag)
    return tuple(entries), ignored


def _settings(checkpoint: s.Block, bag: DiagnosticBag) -> Iterator[s.Setting]:
    for block in (x for x in checkpoint.body if isinstance(x, s.Block)):
        if block.kind.text == "config":
            yield from block.settings()
            continue
        advice = nearest(block.kind.text, ["config"])
        label = f"a checkpoint holds rules and `config {{ ... }}`, not `{block.kind.text}`"
        bag.add(c.UNKNOWN_BLOCK.at(block.kind.span, label, advice=advice))


def _report_repeated_keys(setting: s.Setting, keys: dict[str, s.Target], bag: DiagnosticBag) -> None:
    for target in setting.targets:
        if target.text in keys:
            bag.add(c.DUPLICATE.at(target.span, f"`{target.text}` is given twice"))
        keys.setdefault(target.text, target)


def _report_nested_keys(entries: list[m.ConfigEntry], keys: dict[str, s.Target], bag: DiagnosticBag) -> None:
    """What is written cannot be a value and an object of others as well."""
    written = {entry.keys[0] for entry in entries}
    for key in written:
        above = key
        while "." in above:
            above = above.rpartition(".")[0]
            if above in written:
                label = f"`{above}` is an object, which holds `{key}`"
                bag.add(c.BAD_CONFIG_ENTRY.at(keys[above].span, label))


@dataclass
class _Reader:
    """Entries of one file; `values` are those of its model, if that is sound."""

    file: s.File
    values: Evaluation | None
    decisions: int = 0

    def entry(self, setting: s.Setting) -> m.ConfigEntry:
        """One entry. Raises Mistake."""
        keys = tuple(target.text for target in setting.targets)
        if setting.add or any(not isinstance(x, s.Field) for t in setting.targets for x in t.steps):
            raise Mistake(c.BAD_CONFIG_ENTRY.at(setting.span, "expected `key = path` or `key = constant`"))
        default = _constant(setting.fallback) if setting.fallback is not None else None
        entry = m.ConfigEntry(
            keys, has_default=setting.fallback is not None, default=default, origin=setting.span.origin()
        )
        value = setting.value
        if isinstance(value, s.Match):
            return replace(entry, arms=self._arms(value), chosen=self._chosen(value))
        if isinstance(value, s.Invoke) and value.name == "each_layer" and len(value.arguments) == 1:
            return replace(entry, constant=_scalar(value.arguments[0].value), per_layer=True)
        paths = self.paths(value)
        return replace(entry, paths=paths) if paths else replace(entry, constant=_constant(value))

    def _arms(self, match: s.Match) -> tuple[m.ConfigArm, ...]:
        return tuple(self._arm(arm) for arm in match.arms)

    def _arm(self, arm: s.Arm) -> m.ConfigArm:
        binding = self._binding(arm.pattern)
        if isinstance(arm.value, s.Ref) and len(arm.value.names) == 1 and arm.value.text not in _WORDS:
            return m.ConfigArm(binding, self._number(arm.value), arm.value.text)
        return m.ConfigArm(binding, _scalar(arm.value, "a constant or the name of a number"))

    def _number(self, name: s.Ref) -> m.ConfigScalar:
        """The number that a name of the model is bound to; None where the model is not sound."""
        if self.values is None:
            return None
        number, written = self.values.number(name), self.values.resolve(name)
        real = isinstance(written, s.Number) and not {*".eE"}.isdisjoint(written.text)
        return int(number) if number.denominator == 1 and not real else float(number)

    def _binding(self, pattern: s.Expr) -> str | None:
        """The name of the binding that a pattern is, if importing can set that to a list of layers."""
        if self.values is None or not isinstance(pattern, s.Ref):
            return None
        return pattern.text if self.values.is_layers(pattern) else None

    def _chosen(self, match: s.Match) -> tuple[int, ...]:
        if self.values is None:
            return ()
        self.decisions += len(match.arms) * self.values.layers
        if self.decisions > limits.DECISIONS:
            most = limits.DECISIONS // self.values.layers
            label = f"the matches of a config have at most {most} arms together, over so many layers"
            raise Mistake(c.TOO_LARGE.at(match.span, label))
        return tuple(self.values.chosen(match))

    def paths(self, value: s.Expr) -> tuple[str, ...]:
        """The paths of `key = path` or `key = [path, path]`; empty for a constant. Raises Mistake."""
        items = value.items if isinstance(value, s.ListOf) else (value,)
        refs = [x for x in items if isinstance(x, s.Ref) and x.text not in _WORDS]
        if not refs or len(refs) < len(items):
            return ()
        for ref in refs:
            self._check_path(ref)
        return tuple(ref.text for ref in refs)

    def _check_path(self, ref: s.Ref) -> None:
        try:
            found = read(self.file, ref.names)
        except NoPath as error:
            if not error.absent:
                raise Mistake(c.CONFIG_PATH.at(ref.span, error.label, advice=error.advice)) from None
            return
        varying = self.values.scope.varying if self.values is not None else frozenset()
        if isinstance(found, s.Match) or (isinstance(found, s.Ref) and found.text in varying):
            raise Mistake(c.VARIES.at(ref.span, f"`{ref.text}` is another in every layer", advice=BY_NAME))


def _constant(expr: s.Expr) -> m.ConfigValue:
    if isinstance(expr, s.ListOf):
        if len(expr.items) > limits.LIST_ITEMS:
            label = f"a list has at most {group(limits.LIST_ITEMS)} items"
            raise Mistake(c.TOO_LARGE.at(expr.span, label))
        return tuple(_scalar(item) for item in expr.items)
    return _scalar(expr)


def _scalar(expr: s.Expr, expected: str = "a path or a constant") -> m.ConfigScalar:
    match expr:
        case s.String(text=text):
            return text
        case s.Number():
            number = plain(expr, EMPTY, "a constant")
            return int(number) if number.denominator == 1 and "." not in expr.text else float(number)
        case s.Ref(names=("true" | "false" as word,)):
            return word == "true"
        case s.Ref() if is_none(expr):
            return None
    raise Mistake(c.BAD_CONFIG_ENTRY.at(expr.span, f"expected {expected}, found {s.describe(expr)}"))
