"""What can stand at a place: words of the language by their role there, and names of the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from moec import models
from moec.dsl.families import families, shape_text
from moec.dsl.spec import ModelSpec
from moec.dsl.tokens import Token
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, MODEL, RESERVED, TOP_LEVEL, Construct, Param, of_role

from .cursor import Cursor, cursor, is_match, slot
from .describe import construct_text, param_text
from .document import Document
from .expect import constructs, counted, takes_names, words
from .names import NORMS, SIZES, argument
from .tolerant import Element, Group, end_of, start_of, statements

Kind = Literal["construct", "argument", "binding", "setting", "value", "block", "keyword", "path", "model"]
FORMS = ("concat", "interleave", "stack", "transpose")


@dataclass(frozen=True)
class Item:
    """One completion. `insert` may hold `$0`, where the cursor goes; `detail` stands beside the label."""

    label: str
    kind: Kind
    detail: str = ""
    text: str = ""  # what the documentation says, as Markdown
    insert: str = ""


@dataclass(frozen=True)
class Completion:
    """What can be inserted in the place of the characters from `start` to the cursor."""

    start: int
    items: tuple[Item, ...]


def complete(document: Document, offset: int, model: ModelSpec | None) -> Completion:
    """Completions at an offset. `model`: the model as far as it is known, for paths of parameters."""
    at = cursor(document, offset)
    if at.in_comment or at.in_string:
        return Completion(offset, ())
    if at.path[:1] == ("checkpoint",) and at.block == "checkpoint" and not at.has_equals:
        start, items = _paths(document, at, model)
        return Completion(start, tuple(items))
    itself = next((x.text for x in at.statement if isinstance(x, Token)), "") if at.has_binding else ""
    found = {
        item.label: item for item in _items(document, at) if (item.label, item.kind) != (itself, "binding")
    }
    return Completion(at.start, tuple(found.values()))


def _items(document: Document, at: Cursor) -> Iterator[Item]:
    match at.path:
        case ():
            yield from _top(at)
        case ("checkpoint",):
            yield from _forms()
        case ("checkpoint", "config"):
            yield from _config(document, at)
        case _ if at.group.in_braces and not at.has_equals and not is_match(at.group):
            yield from _settings(document, at)
        case _:
            yield from _values(document, at)


# --- statements ---


def _top(at: Cursor) -> Iterator[Item]:
    if at.after("USE"):
        for name in models.names():
            yield Item(name, "model", "shipped model")
    elif not at.part:
        yield Item("use", "keyword", "lie over another text", insert="use ")
        for name in TOP_LEVEL:
            header = {"model": " ${1:name}", "checkpoint": " huggingface"}.get(name, "")
            yield Item(name, "block", "block", insert=f"{name}{header} {{\n    $0\n}}")


def _settings(document: Document, at: Cursor) -> Iterator[Item]:
    if at.part:
        return
    kind, group = at.blocks[-1]
    given = {
        x.name.text
        for x in statements(_whole(document, group))
        if x.name is not None and x.equals is not None
    }
    if kind in BLOCKS:
        for param in BLOCKS[kind]:
            if param.supported and param.name not in given:
                yield _setting(param)
    elif kind == "model":
        yield from (_setting(param) for param in MODEL if param.name not in given)
        yield Item("layers", "block", "the equations of a layer", insert="layers ${1:N} {\n    $0\n}")
        yield Item("logits", "setting", "the output", insert="logits = linear(norm(x))")
        yield from _bindings(document, document.inherited_names - given)
    elif kind == "layers":
        yield Item("x", "value", "the residual stream", insert="x += $0")


def _setting(param: Param) -> Item:
    return Item(param.name, "setting", param.value, param_text(param), f"{param.name} = ")


def _whole(document: Document, group: Group) -> Group:
    """The group of the whole text that starts where this one, of the text before the cursor, does."""
    from_top = [document.outline.top]
    while from_top:
        one = from_top.pop()
        if one.start == group.start and one.opener is not None:
            return one
        from_top += [x for part in one.parts for x in part if isinstance(x, Group)]
    return group


# --- values ---


def _values(document: Document, at: Cursor) -> Iterator[Item]:
    if at.in_pattern:
        yield from _patterns(document)
    elif _is_equation(at):
        yield from _equation(document, at)
    else:
        found = slot(at.group, at.part)
        name, value = argument(at.part)
        if found is not None and found.owner is not None and name is None and found.group is at.group:
            yield from _arguments(document, at, found.owner)
            if value or found.param is None:
                return
        yield from _of_param(document, at, found.param if found is not None else None)


def _is_equation(at: Cursor) -> bool:
    """Whether a value of an equation can stand here: not inside the call of a construct."""
    found = slot(at.group, at.part)
    return at.in_equation and (found is None or found.owner is None or found.owner.role == "function")


def _equation(document: Document, at: Cursor) -> Iterator[Item]:
    if at.part and not at.after("EQ", "PLUSEQ", "PLUS", "STAR", "SLASH", "ARROW"):
        return
    yield Item("x", "value", "the residual stream")
    for mention in document.names.mentions:
        if mention.scope is not None and mention.defines and mention.end < at.start:
            yield Item(mention.name, "value", "a value of this layer")
    yield from _bindings(
        document, {n for n, b in document.names.bindings.items() if _is_component(document, n)}
    )
    if at.block == "layers":
        yield _match_item()
    else:
        yield _construct(CONSTRUCTS["linear"])


def _match_item() -> Item:
    return Item("match", "keyword", "one of several, by layer", insert="match layer {\n    $0\n}")


def _patterns(document: Document) -> Iterator[Item]:
    yield Item("_", "value", "all layers", insert="_ => ")
    yield _construct(CONSTRUCTS["every"])
    names = {n for n in document.names.bindings if not _is_component(document, n)}
    yield from _bindings(document, names - {*SIZES})


def _arguments(document: Document, at: Cursor, construct: Construct) -> Iterator[Item]:
    if at.part:
        return
    given = {name.text for part in _whole(document, at.group).parts for name, _ in [argument(part)] if name}
    for param in construct.params:
        if param.supported and param.name not in given:
            yield Item(param.name, "argument", param.value, param_text(param), f"{param.name}: ")


def _of_param(document: Document, at: Cursor, param: Param | None) -> Iterator[Item]:
    if param is None:
        if at.block == "model" and at.after("EQ", "ARROW"):
            yield from (_construct(CONSTRUCTS[name]) for name in of_role("component", "pattern"))
            yield _match_item()
            yield from _bindings(document, set(document.names.bindings))
        return
    if at.part and not at.after("EQ", "COLON", "PIPE", "PLUS", "OF", "ARROW", "STAR", "SLASH"):
        if counted(param) and not at.after("OF"):
            yield Item("of", "keyword", insert="of ")
        return
    if not counted(param) or at.after("OF"):
        yield from (_construct(CONSTRUCTS[name]) for name in constructs(param) if CONSTRUCTS[name].supported)
    yield from (Item(word, "value", param.value) for word in words(param))
    if takes_names(param) and at.path[:1] == ("model",):
        yield from _bindings(document, _fitting(document, param, at.after("OF")))
    if at.path == ("model",) and at.after("COLON"):
        yield _match_item()


def _fitting(document: Document, param: Param, network: bool) -> set[str]:
    """The bindings that an argument can take: norms, networks or numbers."""
    norm = "norm" in param.value
    return {
        name
        for name, binding in document.names.bindings.items()
        if (bool(binding.constructs & {*NORMS}) if norm else _is_component(document, name) == network)
    }


def _is_component(document: Document, name: str) -> bool:
    """Whether a binding is a component; one of another text is one unless that text says otherwise."""
    home = document.bound_in(name)
    binding = home.own_names.bindings.get(name) if home is not None else None
    if binding is None:
        return name not in SIZES
    return any(CONSTRUCTS[x].role == "component" for x in binding.constructs)


def _bindings(document: Document, names: set[str]) -> Iterator[Item]:
    for name in document.names.bindings:
        if name in names and name not in RESERVED:
            home = document.bound_in(name)
            detail = home.value_text(name) if home is not None else ""
            yield Item(name, "binding", detail)


def _construct(construct: Construct) -> Item:
    has_arguments = any(param.default is None for param in construct.params) or (
        construct.params and construct.role in ("component", "position")
    )
    insert = f"{construct.name}($0)" if has_arguments else construct.name
    return Item(
        construct.name, "construct", construct.role.replace("_", " "), construct_text(construct), insert
    )


# --- the weight map ---


def _forms() -> Iterator[Item]:
    for name in FORMS:
        yield Item(name, "value", "how the file's tensor is made", insert=f"{name}($0)")


def _paths(document: Document, at: Cursor, model: ModelSpec | None) -> tuple[int, list[Item]]:
    """Left sides of rules, from the start of the statement on, those that have no rule yet first."""
    first = at.part[0] if at.part else None
    start = at.start if first is None else start_of(first)
    block = _whole(document, at.blocks[-1][1])
    written = {_text(document, statement.target) for statement in statements(block) if statement.equals}
    items = [Item("ignore", "setting", "tensors that are not imported", insert="ignore = [$0]")]
    if model is not None:
        for family in families(model):
            if family.path not in written:
                detail = f"{shape_text(family.shape)}, {family.tensors:,} tensors"
                items.append(Item(family.path, "path", detail, insert=f'{family.path} = "$0"'))
    return start, items


def _text(document: Document, target: Sequence[Element]) -> str:
    text = document.source.text[start_of(target[0]) : end_of(target[-1])] if target else ""
    return "".join(text.split())


def _config(document: Document, at: Cursor) -> Iterator[Item]:
    if not at.has_equals:
        if not at.part:
            yield Item("ignore", "setting", "keys that change nothing", insert="ignore = [$0]")
        return
    if at.after("DOT"):
        yield from _path_steps(document, at)
        return
    yield from _bindings(document, set(document.names.bindings))
    yield Item("layers", "value", "the number of layers")
    yield from (Item(word, "value") for word in ("true", "false", "none"))
    yield Item("each_layer", "value", "a constant once for every layer", insert="each_layer($0)")
    yield _match_item()


def _path_steps(document: Document, at: Cursor) -> Iterator[Item]:
    """The arguments of the binding before the dot."""
    names = [x.text for x in at.part[-2:-1] if isinstance(x, Token)]
    home = document.bound_in(names[0]) if names else None
    binding = home.own_names.bindings.get(names[0]) if home is not None else None
    for name in binding.constructs if binding is not None else ():
        for param in CONSTRUCTS[name].params:
            yield Item(param.name, "argument", param.value, param_text(param))
