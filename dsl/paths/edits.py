"""Reading and writing at a path of a file: blocks, settings, bindings, the number of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from moec.dsl import syntax as s
from moec.dsl.resolve import put_setting, without_rivals
from moec.dsl.source import Span
from moec.dsl.vocabulary import BLOCKS, MODEL, Param, find

from .steps import ABSENT, Edit, NoPath, default_of, is_word, means_default, text_of
from .values import down, output

_EQUATIONS = {"x": "embed(tokens)"}  # of the model, where it is not written


def read(file: s.File, path: Sequence[str]) -> s.Expr:
    """The value at a path, defaults included where they are written in the vocabulary. Raises NoPath."""
    found: list[s.Expr] = []

    def keep(value: s.Expr) -> s.Expr:
        found.append(value)
        return value

    edit(file, path, keep)
    if found[0] is ABSENT:
        raise NoPath(len(path) - 1, f"`{'.'.join(path)}` is not given", absent=True)
    return found[0]


def write(file: s.File, path: Sequence[str], value: s.Expr) -> s.File:
    """The tree with another value at a path. Raises NoPath."""
    return edit(_opened(file, path), path, lambda _: value)


def _opened(file: s.File, path: Sequence[str]) -> s.File:
    """A path into a setting that is `none`, such as `train.checkpoint.every`, makes it what it can be."""
    param = find(BLOCKS[path[0]], path[1]) if path[0] in BLOCKS and len(path) > 2 else None
    if param is None or not param.opened:
        return file
    return edit(file, path[:2], lambda old: text_of(param.opened) if is_word(old, "none") else old)


def edit(file: s.File, path: Sequence[str], change: Edit) -> s.File:
    """The tree with the value at `path` replaced by `change` of it. Raises NoPath."""
    first = path[0]
    if first in BLOCKS:
        return _in_block(file, first, path, change)
    if first == "checkpoint":
        return _without_checkpoint(file, path, change)
    model = file.block("model")
    if model is None:
        raise NoPath(0, "there is no model")
    start = 1 if first == "model" and len(path) > 1 else 0
    changed = _in_model(model, path, start, change)
    return replace(file, items=tuple(changed if item is model else item for item in file.items))


def _without_checkpoint(file: s.File, path: Sequence[str], change: Edit) -> s.File:
    value = change(s.Ref(("none",), file.span))
    if len(path) > 1 or not is_word(value, "none"):
        raise NoPath(0, "a weight map is changed in the text; `checkpoint=none` leaves it out")
    return replace(file, items=tuple(x for x in file.items if x is not file.block("checkpoint")))


# --- blocks ---


def _in_block(file: s.File, kind: str, path: Sequence[str], change: Edit) -> s.File:
    names = [param.name for param in BLOCKS[kind]]
    if len(path) == 1:
        raise NoPath(0, f"`{kind}` is a block; name one of its settings", names)
    param = find(BLOCKS[kind], path[1])
    if param is None:
        raise NoPath(1, f"`{kind}` has no setting `{path[1]}`", names, path[1])
    span = Span(file.span.source, 0, 0)
    block = file.block(kind) or s.Block(s.Name(kind, span), None, (), file.span)
    old = block.find(param.name)
    value = down(old.value if old else default_of(param), path, 2, change)
    changed = replace(block, body=tuple(_put(block.body, param, old, value)))
    if file.block(kind) is None:
        return replace(file, items=(*file.items, changed))
    return replace(file, items=tuple(changed if item is block else item for item in file.items))


def _put(
    body: Sequence[s.Statement], param: Param, old: s.Setting | None, value: s.Expr
) -> Sequence[s.Statement]:
    if means_default(param, value):
        return [x for x in body if x is not old]
    if old is not None and old.value is value:
        return body
    setting = _setting(param.name, value, old)
    return put_setting(without_rivals(body, [setting]), setting)


def _setting(name: str, value: s.Expr, old: s.Setting | None) -> s.Setting:
    if old is not None:
        return replace(old, value=value, span=value.span)
    return s.Setting((s.Target((s.Field(name),), False, value.span),), False, value, None, value.span)


# --- the model ---


def _in_model(model: s.Block, path: Sequence[str], start: int, change: Edit) -> s.Block:
    name = path[start]
    if name == "layers":
        return _layer_count(model, path, start, change)
    old = model.find(name)
    inside = output if name == "logits" else down
    if old is None:
        current = _absent(model, name, start)
        return _with_setting(model, _setting(name, inside(current, path, start + 1, change), None))
    value = inside(old.value, path, start + 1, change)
    changed = _setting(name, value, old) if value is not old.value else old
    return replace(model, body=tuple(changed if x is old else x for x in model.body))


def _absent(model: s.Block, name: str, step: int) -> s.Expr:
    """The default of a setting that the model does not give."""
    if name in _EQUATIONS:
        return text_of(_EQUATIONS[name])
    param = find(MODEL, name)
    if param is None or param.default is None:
        bound = [setting.key for setting in model.settings()]
        raise NoPath(step, f"the model has no `{name}`", [*bound, "layers", *BLOCKS], name)
    return default_of(param)


def _with_setting(model: s.Block, setting: s.Setting) -> s.Block:
    """The model with a setting added: an equation before the layers, another after the sizes."""
    if setting.key in _EQUATIONS:
        places = [i for i, x in enumerate(model.body) if isinstance(x, s.Block)]
        place = min(places, default=len(model.body))
    else:
        sizes = [i for i, x in enumerate(model.body) if isinstance(x, s.Setting) and find(MODEL, x.key)]
        place = max(sizes, default=-1) + 1
    return replace(model, body=(*model.body[:place], setting, *model.body[place:]))


def _layer_count(model: s.Block, path: Sequence[str], start: int, change: Edit) -> s.Block:
    block = model.block("layers")
    if len(path) > start + 1:
        raise NoPath(start + 1, "`layers` is the number of layers; name a binding to change a component")
    if block is None or block.header is None:
        raise NoPath(start, "the model has no `layers N`")
    header = block.header
    count = change(s.Ref((header.text,), header.span) if isinstance(header, s.Name) else header)
    match count:
        case s.Number():
            changed = replace(block, header=count)
        case s.Ref(names=(name,)):
            changed = replace(block, header=s.Name(name, count.span))
        case _:
            raise NoPath(start, f"expected a number of layers, found {s.describe(count)}")
    return replace(model, body=tuple(changed if x is block else x for x in model.body))
