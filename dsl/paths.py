"""Paths into a text: `train.sequence`, `experts.router.top`, `experts.experts.width`.

One walk serves reading and writing: `edit` rebuilds the tree around one value. A path names a block and its
setting, or a binding of the model and its argument, and goes on into what the value calls:

    layers                      the number of layers
    experts.experts             the N of `N of f(...)`; further steps are arguments of f
    experts.router.top          the first argument of a stage; `true` or `false` for a stage without arguments
    experts.balance.aux_loss    the coefficient of a loss term, 0 where there is none
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

from moec.dsl import syntax as s
from moec.dsl.diagnostics import DiagnosticBag, nearest
from moec.dsl.parse import parse_expression
from moec.dsl.resolve import put_setting, without_rivals
from moec.dsl.source import SourceText, Span
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, MODEL, Construct, Param, Role, find, of_role

Edit = Callable[[s.Expr], s.Expr]


class NoPath(Exception):  # noqa: N818
    """A path leads nowhere. `step` is the index of the first step that fails.

    `absent`: the path is one of the language, and leads nowhere only because of a value such as `rope: none`.
    """

    def __init__(
        self, step: int, label: str, names: Sequence[str] = (), word: str = "", absent: bool = False
    ) -> None:
        super().__init__(label)
        self.absent = absent
        self.step = step
        self.label = label
        self.advice = nearest(word, list(names)) if names else ""


def read(file: s.File, path: Sequence[str]) -> s.Expr:
    """The value at a path, defaults included where they are written in the vocabulary. Raises NoPath."""
    found: list[s.Expr] = []

    def keep(value: s.Expr) -> s.Expr:
        found.append(value)
        return value

    edit(file, path, keep)
    if found[0] is _ABSENT:
        raise NoPath(len(path) - 1, f"`{'.'.join(path)}` is not given", absent=True)
    return found[0]


def write(file: s.File, path: Sequence[str], value: s.Expr) -> s.File:
    """The tree with another value at a path. Raises NoPath."""
    return edit(file, path, lambda _: value)


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
    if len(path) > 1 or not (isinstance(value, s.Ref) and value.text == "none"):
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
    value = _down(old.value if old else _default(param), path, 2, change)
    changed = replace(block, body=tuple(_put(block.body, param, old, value)))
    if file.block(kind) is None:
        return replace(file, items=(*file.items, changed))
    return replace(file, items=tuple(changed if item is block else item for item in file.items))


def _put(
    body: Sequence[s.Statement], param: Param, old: s.Setting | None, value: s.Expr
) -> Sequence[s.Statement]:
    if _means_default(param, value):
        return [x for x in body if x is not old]
    if old is not None and old.value is value:
        return body
    setting = _setting(param.name, value, old)
    return put_setting(without_rivals(body, [setting]), setting)


def _setting(name: str, value: s.Expr, old: s.Setting | None) -> s.Setting:
    if old is not None:
        return replace(old, value=value, span=value.span)
    return s.Setting((s.Target((s.Field(name),), False, value.span),), False, value, None, value.span)


def _means_default(param: Param, value: s.Expr) -> bool:
    return (
        isinstance(value, s.Ref)
        and value.text == "none"
        and param.default is not None
        and not param.takes_none
    )


@cache
def _default_text(text: str) -> s.Expr:
    bag = DiagnosticBag()
    value = parse_expression(SourceText("<default>", text), bag)
    assert value is not None, text
    return value


_ABSENT = s.String("", Span(SourceText("<absent>", ""), 0, 0))


def _default(param: Param) -> s.Expr:
    """The default of an absent value; `_ABSENT` where there is none, or it follows from other values."""
    if param.default is None or param.derived:
        return _ABSENT
    return _default_text(param.default)


# --- the model ---


def _in_model(model: s.Block, path: Sequence[str], start: int, change: Edit) -> s.Block:
    name = path[start]
    if name == "layers":
        return _layer_count(model, path, start, change)
    old = model.find(name)
    if old is None:
        param = find(MODEL, name)
        if param is None or param.default is None:
            bound = [setting.key for setting in model.settings()]
            raise NoPath(start, f"the model has no `{name}`", [*bound, "layers", *BLOCKS], name)
        setting = _setting(name, _down(_default(param), path, start + 1, change), None)
        sizes = [i for i, x in enumerate(model.body) if isinstance(x, s.Setting) and find(MODEL, x.key)]
        place = max(sizes, default=-1) + 1
        return replace(model, body=(*model.body[:place], setting, *model.body[place:]))
    value = _down(old.value, path, start + 1, change)
    changed = _setting(name, value, old) if value is not old.value else old
    return replace(model, body=tuple(changed if x is old else x for x in model.body))


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


# --- values ---


def _down(value: s.Expr, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    """The value with what the rest of the path (from `step`) leads to replaced."""
    if isinstance(value, s.Repeat):
        return _repeat(value, path, step, change)
    if step == len(path):
        return change(value)
    if isinstance(value, s.Ref) and value.text in CONSTRUCTS:
        value = s.Invoke(value, (), value.span)
    construct = CONSTRUCTS.get(value.name) if isinstance(value, s.Invoke) else None
    if not isinstance(value, s.Invoke) or construct is None:
        label = f"`{'.'.join(path[:step])}` is {s.describe(value)} and has no `{path[step]}`"
        raise NoPath(
            step, label, absent=value is _ABSENT or (isinstance(value, s.Ref) and value.text == "none")
        )
    return _argument(value, construct, path, step, change)


def _repeat(value: s.Repeat, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    if step < len(path):
        return replace(value, body=_down(value.body, path, step, change))
    count = change(value.count)
    is_count = isinstance(count, s.Number) or (isinstance(count, s.Ref) and count.text != "none")
    return replace(value, count=count) if is_count else count


def _argument(call: s.Invoke, construct: Construct, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    param = construct.param(path[step])
    if param is None:
        names = [p.name for p in construct.params]
        raise NoPath(step, f"`{construct.name}` has no argument `{path[step]}`", names, path[step])
    old = _given(call, construct, param)
    current = old.value if old else _default(param)
    goes_on = construct.name == "moe" and step + 1 < len(path)
    inner = _IN_PARTS.get(param.name, _down) if goes_on else _down
    return _with_argument(call, param, old, inner(current, path, step + 1, change))


def _given(call: s.Invoke, construct: Construct, param: Param) -> s.Argument | None:
    first = construct.positional and param is construct.params[0]
    for index, argument in enumerate(call.arguments):
        if argument.name == param.name or (argument.name is None and index == 0 and first):
            return argument
    return None


def _with_argument(call: s.Invoke, param: Param, old: s.Argument | None, value: s.Expr) -> s.Invoke:
    if _means_default(param, value):
        return replace(call, arguments=tuple(a for a in call.arguments if a is not old))
    if old is None:
        return replace(call, arguments=(*call.arguments, s.Argument(param.name, value, value.span)))
    if value is old.value:
        return call
    new = replace(old, value=value, span=value.span)
    return replace(call, arguments=tuple(new if a is old else a for a in call.arguments))


# --- parts of a pipeline or a sum, by name ---


def _parts(value: s.Expr) -> list[s.Expr]:
    match value:
        case s.Pipe(stages=parts) | s.Sum(terms=parts):
            return list(parts)
        case s.Ref(names=("none",)):
            return []
    return [value]


def _part_name(part: s.Expr) -> str:
    return part.text if isinstance(part, s.Ref) else part.name if isinstance(part, s.Invoke) else ""


def _index(parts: Sequence[s.Expr], name: str) -> int | None:
    return next((i for i, part in enumerate(parts) if _part_name(part) == name), None)


def _stage(router: s.Expr, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    name, stages = path[step], _parts(router)
    if name not in of_role("stage"):
        raise NoPath(step, *_no_such("stage", name))
    index, construct = _index(stages, name), CONSTRUCTS[name]
    if construct.params:
        if index is None:
            raise NoPath(step, f"the router has no stage `{name}`", absent=True)
        rest = path if len(path) > step + 1 else (*path, construct.params[0].name)
        stages[index] = _down(stages[index], rest, step + 1, change)
    else:
        stages = _switched(stages, name, index, change(_flag(index is not None, router.span)), step)
    return stages[0] if len(stages) == 1 else s.Pipe(tuple(stages), router.span)


def _no_such(role: Role, name: str) -> tuple[str, list[str], str]:
    if name in of_role(role, supported=False):
        return f"`{name}` is not supported yet", [], name
    return f"there is no `{name}`", of_role(role), name


def _flag(value: bool, span: Span) -> s.Expr:
    return s.Ref(("true" if value else "false",), span)


def _switched(stages: list[s.Expr], name: str, index: int | None, value: s.Expr, step: int) -> list[s.Expr]:
    wanted = isinstance(value, s.Ref) and value.text == "true"
    if not wanted and not (isinstance(value, s.Ref) and value.text in ("false", "none")):
        raise NoPath(step, f"the stage `{name}` is there or not: true or false, not {s.describe(value)}")
    if wanted == (index is not None):
        return stages
    if index is not None:
        return [stage for i, stage in enumerate(stages) if i != index]
    top = _index(stages, "top")
    after = len(stages) if top is None else top + 1
    return [*stages[:after], s.Ref((name,), value.span), *stages[after:]]


def _term(balance: s.Expr, path: Sequence[str], step: int, change: Edit) -> s.Expr:
    name, terms = path[step], _parts(balance)
    if name not in of_role("balance"):
        raise NoPath(step, *_no_such("balance", name))
    index = _index(terms, name)
    if len(path) > step + 1:
        if index is None:
            raise NoPath(step, f"`balance` has no term `{name}`", absent=True)
        terms[index] = _down(terms[index], path, step + 1, change)
    else:
        terms = _weighted(terms, name, index, balance.span, change)
    if not terms:
        return s.Ref(("none",), balance.span)
    return terms[0] if len(terms) == 1 else s.Sum(tuple(terms), balance.span)


def _weighted(terms: list[s.Expr], name: str, index: int | None, span: Span, change: Edit) -> list[s.Expr]:
    """A coefficient of 0 or `none` takes the term away; another adds it where it was absent."""
    if index is None:
        value = change(s.Number("0", "", span))
        callee = s.Ref((name,), value.span)
        term = s.Invoke(callee, (s.Argument(None, value, value.span),), value.span)
        return terms if _is_zero(value) else [*terms, term]
    call = terms[index]
    assert isinstance(call, s.Invoke | s.Ref)
    call = call if isinstance(call, s.Invoke) else s.Invoke(call, (), call.span)
    old = _given(call, CONSTRUCTS[name], CONSTRUCTS[name].params[0])
    value = change(old.value if old else s.Number("0", "", span))
    if _is_zero(value):
        return [term for i, term in enumerate(terms) if i != index]
    terms[index] = _with_argument(call, CONSTRUCTS[name].params[0], old, value)
    return terms


def _is_zero(value: s.Expr) -> bool:
    if isinstance(value, s.Number):
        return not value.text.strip("0_.")
    return isinstance(value, s.Ref) and value.text == "none"


_IN_PARTS: dict[str, Callable[[s.Expr, Sequence[str], int, Edit], s.Expr]] = {
    "router": _stage,
    "balance": _term,
}
