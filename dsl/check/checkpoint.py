"""`checkpoint huggingface { ... }` -> `Checkpoint`: the map, proved a bijection, and config entries."""

from __future__ import annotations

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.values import EMPTY, is_none, plain, wrong_type
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.paths import NoPath, read
from moec.dsl.weightmap import (
    Rule,
    index_rules,
    map_tensors,
    possible_shapes,
    read_rule,
    report_collisions,
    report_ignored,
    report_impossible,
)


def check_checkpoint(
    block: s.Block | None, file: s.File, model: m.ModelSpec | None, bag: DiagnosticBag
) -> m.Checkpoint | None:
    """The weight map of a model; with `model` None (it has faults) only the form of the rules is checked."""
    if block is None:
        return None
    if not isinstance(block.header, s.Name) or block.header.text != "huggingface":
        place = block.header.span if block.header else block.kind.span
        bag.add(c.UNKNOWN_NAME.at(place, "expected `checkpoint huggingface { ... }`"))
    rules: list[Rule] = []
    ignored: tuple[str, ...] = ()
    for setting in block.settings():
        if setting.targets[0].simple == "ignore":
            ignored = bag.attempt(_strings, setting.value) or ()
        else:
            rules += bag.attempt(read_rule, setting) or []
    config, config_ignored = _config(block, file, bag)
    by_shape = index_rules(rules, bag)
    if model is None or len(bag):
        return None
    groups = _prove(model, file, by_shape, ignored, block, bag)
    if model.head.tied and "logits" in by_shape:  # published files hold it or not: it is the embedding
        ignored = (*ignored, by_shape["logits"][0].tensor(()))
    return m.Checkpoint(groups, config, config_ignored, ignored, block.kind.span.origin())


def _prove(
    model: m.ModelSpec,
    file: s.File,
    rules: dict[str, tuple[Rule, int]],
    ignored: tuple[str, ...],
    block: s.Block,
    bag: DiagnosticBag,
) -> tuple[m.TensorGroup, ...]:
    written = file.block("model")
    assert written is not None
    report_impossible(rules, possible_shapes(written), bag)
    mapped = bag.attempt(map_tensors, model, rules, block.kind.span, bag) or ()
    report_collisions(mapped, bag)
    ignore = next((x.value.span for x in block.settings() if x.targets[0].simple == "ignore"), block.span)
    report_ignored(mapped, ignored, ignore, bag)
    return tuple(one.group for one in mapped)


def _strings(expr: s.Expr) -> tuple[str, ...]:
    if not isinstance(expr, s.ListOf):
        raise wrong_type(expr, "a list of strings")
    if len(expr.items) > limits.MATCH_ARMS:
        raise Mistake(c.TOO_LARGE.at(expr.span, f"at most {limits.MATCH_ARMS} names"))
    for item in expr.items:
        if not isinstance(item, s.String):
            raise wrong_type(item, "a string")
    return tuple(item.text for item in expr.items if isinstance(item, s.String))


# --- config { ... } ---


def _config(
    checkpoint: s.Block, file: s.File, bag: DiagnosticBag
) -> tuple[tuple[m.ConfigEntry, ...], tuple[str, ...]]:
    entries: list[m.ConfigEntry] = []
    ignored: tuple[str, ...] = ()
    seen: set[str] = set()
    for block in (x for x in checkpoint.body if isinstance(x, s.Block)):
        if block.kind.text != "config":
            advice = nearest(block.kind.text, ["config"])
            label = f"a checkpoint holds rules and `config {{ ... }}`, not `{block.kind.text}`"
            bag.add(c.UNKNOWN_BLOCK.at(block.kind.span, label, advice=advice))
            continue
        for setting in block.settings():
            if setting.targets[0].simple == "ignore":
                ignored = bag.attempt(_strings, setting.value) or ()
                continue
            entry = bag.attempt(_entry, setting, file)
            entries += [entry] if entry is not None else []
            _report_repeated_keys(setting, seen, bag)
    return tuple(entries), ignored


def _report_repeated_keys(setting: s.Setting, seen: set[str], bag: DiagnosticBag) -> None:
    for target in setting.targets:
        if target.text in seen:
            bag.add(c.DUPLICATE.at(target.span, f"`{target.text}` is given twice"))
        seen.add(target.text)


def _entry(setting: s.Setting, file: s.File) -> m.ConfigEntry:
    keys = tuple(target.text for target in setting.targets)
    if setting.add or any(not isinstance(x, s.Field) for t in setting.targets for x in t.steps):
        raise Mistake(c.BAD_CONFIG_ENTRY.at(setting.span, "expected `key = path` or `key = constant`"))
    has_default = setting.fallback is not None
    default = _constant(setting.fallback) if setting.fallback is not None else None
    origin = setting.span.origin()
    value = setting.value
    if isinstance(value, s.Invoke) and value.name == "each_layer" and len(value.arguments) == 1:
        constant = _constant(value.arguments[0].value)
        return m.ConfigEntry(keys, (), constant, has_default, default, True, origin)
    paths = _paths(value, file)
    if paths:
        return m.ConfigEntry(keys, paths, None, has_default, default, False, origin)
    return m.ConfigEntry(keys, (), _constant(value), has_default, default, False, origin)


def _paths(value: s.Expr, file: s.File) -> tuple[str, ...]:
    """The paths of `key = path` or `key = [path, path]`; empty for a constant."""
    items = value.items if isinstance(value, s.ListOf) else (value,)
    refs = [item for item in items if isinstance(item, s.Ref) and item.text not in ("true", "false", "none")]
    if not refs or len(refs) < len(items):
        return ()
    for ref in refs:
        try:
            read(file, ref.names)
        except NoPath as error:
            if not error.absent:
                raise Mistake(c.CONFIG_PATH.at(ref.span, error.label, advice=error.advice)) from None
    return tuple(ref.text for ref in refs)


def _constant(expr: s.Expr) -> m.ConfigValue:
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
        case s.ListOf(items=items):
            return _constants(expr, items)
    raise Mistake(
        c.BAD_CONFIG_ENTRY.at(expr.span, f"expected a path or a constant, found {s.describe(expr)}")
    )


def _constants(expr: s.Expr, items: tuple[s.Expr, ...]) -> m.ConfigValue:
    values = [_constant(item) for item in items]
    if all(isinstance(value, str) for value in values):
        return tuple(str(value) for value in values)
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return tuple(value for value in values if isinstance(value, int))
    raise Mistake(c.BAD_CONFIG_ENTRY.at(expr.span, "a list holds strings only, or whole numbers only"))
