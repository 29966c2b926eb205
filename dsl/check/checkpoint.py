"""`checkpoint huggingface { ... }` -> `Checkpoint`: the map, proved a bijection, and config entries."""

from __future__ import annotations

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.config_block import check_config_blocks, strings
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.weightmap import (
    Rule,
    index_rules,
    map_blanks,
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
            ignored = bag.attempt(strings, setting.value) or ()
        else:
            rules += bag.attempt(read_rule, setting) or []
    config, config_ignored = check_config_blocks(block, file, model is not None, bag)
    by_shape = index_rules(rules, bag)
    if model is None or len(bag):
        return None
    groups, blanks = _prove(model, file, by_shape, ignored, block, bag)
    if model.head.tied and "logits" in by_shape:  # published files hold it or not: it is the embedding
        ignored = (*ignored, by_shape["logits"][0].tensor(()))
    return m.Checkpoint(groups, config, config_ignored, ignored, blanks, block.kind.span.origin())


def _prove(
    model: m.ModelSpec,
    file: s.File,
    rules: dict[str, tuple[Rule, int]],
    ignored: tuple[str, ...],
    block: s.Block,
    bag: DiagnosticBag,
) -> tuple[tuple[m.TensorGroup, ...], tuple[m.Blanks, ...]]:
    written = file.block("model")
    assert written is not None
    report_impossible(rules, possible_shapes(written), bag)
    mapped = bag.attempt(map_tensors, model, rules, block.kind.span, bag) or ()
    blanks = map_blanks(model, rules, block.kind.span, bag)
    named = [*mapped, *(one for one, _ in blanks)]
    report_collisions(named, bag)
    ignore = next((x.value.span for x in block.settings() if x.targets[0].simple == "ignore"), block.span)
    report_ignored(named, ignored, ignore, bag)
    return tuple(one.group for one in mapped), tuple(blank for _, blank in blanks)
