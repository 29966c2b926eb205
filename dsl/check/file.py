"""A whole file, `use`d files merged in and overrides applied -> `Spec`."""

from __future__ import annotations

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.checkpoint import check_checkpoint
from moec.dsl.check.memory import check_memory
from moec.dsl.check.model import check_model
from moec.dsl.check.precision import check_precision
from moec.dsl.check.settings import check_parallel
from moec.dsl.check.train import check_train
from moec.dsl.diagnostics import DiagnosticBag, nearest
from moec.dsl.format import format_file
from moec.dsl.vocabulary import TOP_LEVEL


def check_file(file: s.File, bag: DiagnosticBag) -> m.Spec:
    """Check everything. Raises SourceErrors with all diagnostics of the bag, those from before included."""
    _check_items(file, bag)
    block = file.block("model")
    if block is None and not len(bag):
        bag.add(c.NO_MODEL.at(file.span, "expected `use NAME` or `model NAME { ... }`"))
    model = check_model(block, bag) if block is not None else None
    sound = None if len(bag) else model
    context = model.context if model is not None else limits.CONTEXT
    parallel = check_parallel(file.block("parallel"), bag)
    precision = check_precision(file.block("precision"), bag)
    memory = check_memory(file.block("memory"), sound, bag)
    train = check_train(file.block("train"), context, bag)
    checkpoint = check_checkpoint(file.block("checkpoint"), file, sound, bag)
    bag.raise_if_any()
    assert sound is not None
    return m.Spec(sound, parallel, precision, memory, train, checkpoint, format_file(file))


def _check_items(file: s.File, bag: DiagnosticBag) -> None:
    for item in file.items:
        match item:
            case s.Setting():
                label = "a setting stands inside a block, such as `train { ... }`"
                bag.add(c.MISPLACED.at(item.targets[0].span, label))
            case s.Block() if item.kind.text not in TOP_LEVEL:
                advice = nearest(item.kind.text, TOP_LEVEL)
                bag.add(
                    c.UNKNOWN_BLOCK.at(item.kind.span, f"there is no block `{item.kind.text}`", advice=advice)
                )
