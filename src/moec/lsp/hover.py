"""What the thing at a place is: a construct, a component with its parameters, a path, a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from moec.dsl import parameters, summary_text
from moec.dsl.families import Family, families, ranges, shape_text
from moec.dsl.format import format_expression
from moec.dsl.paths import NoPath
from moec.dsl.paths import read as read_path
from moec.dsl.quantities import BadNumber, format_number, parse_quantity
from moec.dsl.spec import ModelSpec
from moec.dsl.tokens import Token
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, MODEL, find

from .cursor import PATH_KINDS, Cursor, before_token, callee, slot
from .describe import construct_text, escaped, param_text, params_table
from .document import Document
from .expect import means_word, words
from .names import Mention
from .tolerant import Element, Statement, end_of, start_of, statements

_WORDS = {
    "none": "nothing, or the absence of what the argument gives",
    "true": "yes",
    "false": "no",
    "rest": "what the other degrees leave of the ranks",
    "x": "the residual stream, (tokens, width)",
    "layer": "the number of the layer, from 0",
    "_": "every layer that no arm above took",
    "use": "lies over another text: a setting here replaces the one of its name there",
    "match": "one of several, by the layer: the first arm whose pattern holds",
    "of": "`N of f(W)`: so many networks of one shape",
    "else": "what a `config.json` without the key means",
}
_BLOCKS = {
    "model": "What is computed.",
    "parallel": "How ranks share the work. Never changes what is computed.",
    "precision": "Number formats.",
    "memory": "What is kept between forward and backward.",
    "train": "How the model is trained.",
    "checkpoint": "The tensors of a published checkpoint for the parameters, proved a bijection.",
    "config": "The keys of the published `config.json`.",
}


@dataclass(frozen=True)
class Hover:
    """Markdown about the characters [start, end)."""

    text: str
    start: int
    end: int


def hover(document: Document, offset: int, model: ModelSpec | None) -> Hover | None:
    """What stands at an offset; None where there is nothing to say."""
    token = _token_at(document, offset)
    if token is None:
        return None
    at = before_token(document, token)
    found = next((text for text in _about(document, token, at, model) if text), None)
    return Hover(found, token.span.start, token.span.end) if found else None


def _token_at(document: Document, offset: int) -> Token | None:
    touching = [x for x in document.outline.tokens if x.span.start <= offset <= x.span.end]
    named = [x for x in touching if x.kind in ("NAME", "NUMBER", "STRING", "UNIT") or x.text.isidentifier()]
    return named[-1] if named else None


def _about(document: Document, token: Token, at: Cursor, model: ModelSpec | None) -> Iterator[str]:
    """Everything that can be said of a token, the most particular first."""
    mention = document.names.at(token.span.start)
    if at.block == "checkpoint" and not at.has_equals:
        yield _rule(document, token, model)
    if token.kind == "STRING":
        yield _used(document, token, at)
        yield _rule(document, token, model) if at.block == "checkpoint" else ""
        return
    if token.kind in ("NUMBER", "UNIT"):
        yield _number(document, token, at)
    if at.after("USE"):
        yield _used(document, token, at)
    yield _head(document, token, at, model)
    yield _argument(document, token, at)
    if at.block == "config" and at.has_equals:
        yield _path(document, token)
    if mention is not None:
        yield _binding(document, mention, model)
    yield _construct(token)
    yield _word(token, at)


# --- words of the language ---


def _construct(token: Token) -> str:
    construct = CONSTRUCTS.get(token.text)
    return construct_text(construct) if construct is not None else ""


def _argument(document: Document, token: Token, at: Cursor) -> str:
    """The name of an argument or of a setting, or a word that one takes."""
    following = _next(document, token)
    construct = callee(at.group)
    if following == "COLON" and construct is not None and not at.part:
        param = construct.param(token.text)
        return param_text(param) + f"\n\nof {escaped(construct.name)}" if param is not None else ""
    if following == "EQ" and not at.part:
        table = MODEL if at.block == "model" else BLOCKS.get(at.block, ())
        param = find(table, token.text)
        return param_text(param) if param is not None else ""
    found = slot(at.group, at.part)
    param = found.param if found is not None else None
    if param is not None and token.text in words(param) and means_word(token.text, param):
        owner = found.owner if found is not None else None
        lines = [_said(token.text), param_text(param), escaped(owner.meaning) if owner is not None else ""]
        return "\n\n".join(line for line in lines if line)
    return ""


def _next(document: Document, token: Token) -> str:
    tokens = document.outline.tokens
    index = next(i for i, one in enumerate(tokens) if one is token)
    return tokens[index + 1].kind if index + 1 < len(tokens) else ""


def _word(token: Token, at: Cursor) -> str:
    if token.text in _BLOCKS and not at.part:
        table = params_table(BLOCKS[token.text]) if token.text in BLOCKS else ""
        return "\n\n".join(part for part in (f"**{token.text}**", _BLOCKS[token.text], table) if part)
    return _said(token.text)


def _said(word: str) -> str:
    return f"`{word}`: {_WORDS[word]}" if word in _WORDS else ""


def _number(document: Document, token: Token, at: Cursor) -> str:
    """A number in full, where it is written short."""
    if token.kind == "UNIT":
        return f"`{token.text}`: the unit of the number before it"
    found = slot(at.group, at.part)
    param = found.param if found is not None else None
    lines = [param_text(param)] if param is not None else []
    try:
        quantity = parse_quantity(token.text)
    except BadNumber:
        return ""
    of_tokens = _next(document, token) == "UNIT" or (param is not None and "tokens" in param.value)
    value = quantity.tokens if of_tokens and not quantity.unit else quantity.value
    written = format_number(value) + {"": "", "B": " bytes", "B/s": " bytes a second"}[quantity.unit]
    if written.replace("_", "") != token.text.replace("_", ""):
        lines.insert(0, f"`{token.text}` = {written}")
    return "\n\n".join(lines)


# --- the whole model ---


def _used(document: Document, token: Token, at: Cursor) -> str:
    used = document.target(token) if at.after("USE") else None
    if used is None:
        return ""
    spec = used.checked.spec
    return (
        _fenced(summary_text(spec).rstrip()) if spec is not None else f"{used.name}: has mistakes of its own"
    )


def _head(document: Document, token: Token, at: Cursor, model: ModelSpec | None) -> str:
    """`layers N`, or `model NAME`."""
    words = (*(x.text for x in at.part if isinstance(x, Token)), token.text)
    if at.block == "model" and words[0] == "layers" and len(words) <= 2 and not at.has_equals:
        return _layers(model) if model is not None else ""
    if not at.path and words[0] == "model" and len(words) == 2 and model is not None:
        total, active = parameters.count(model)
        return f"**{escaped(model.name)}**: {total:,} parameters, {active:,} active per token"
    return ""


def _layers(model: ModelSpec) -> str:
    kinds: dict[int, list[int]] = {}
    for index, layer in enumerate(model.layers):
        kinds.setdefault(id(layer), []).append(index)
    lines = [f"{len(model.layers)} layers, {len(kinds)} kind{'s' * (len(kinds) > 1)}"]
    for layers in kinds.values():
        own = parameters.layer_parameters(model.layers[layers[0]], model.width)
        total = sum(prod(p.stored_shape) for p in own)
        active = sum(prod(p.shape) * (p.active or 1) for p in own)
        lines.append(f"- {ranges(layers)}: {total:,} parameters each, {active:,} active per token")
    total, active = parameters.count(model)
    return "\n".join([*lines, "", f"whole model: {total:,} parameters, {active:,} active per token"])


# --- bindings ---


def _binding(document: Document, mention: Mention, model: ModelSpec | None) -> str:
    if mention.scope is not None:
        return f"`{mention.name}`: a value of this layer, (tokens, width)"
    home = document.bound_in(mention.name)
    value = home.value_text(mention.name) if home is not None else ""
    lines = [_fenced(f"{mention.name} = {value}" if value else mention.name, "moe")]
    if home is not None and home is not document:
        lines.append(f"bound in {escaped(home.name)}")
    binding = home.own_names.bindings.get(mention.name) if home is not None else None
    for name in sorted(binding.constructs) if binding is not None else ():
        lines.append(f"**{name}**: {escaped(CONSTRUCTS[name].meaning)}")
    of_it = _families_of(mention.name, model) if model is not None else []
    if of_it:
        lines.append(families_table(of_it))
    return "\n\n".join(lines)


def _families_of(name: str, model: ModelSpec) -> list[Family]:
    """The parameters named after a binding: of a component, or of a norm wherever it is used."""
    found = []
    for family in families(model):
        steps = family.path.removeprefix("layers[i].").removesuffix("_bias").split(".")
        norm = steps[-1].removeprefix("post_").removeprefix("embed_")
        if steps[0] == name or norm == name:
            found.append(family)
    return found


def families_table(found: Sequence[Family]) -> str:
    """Parameters with shapes and counts, and their sum."""
    rows = ["| parameter | shape | tensors |", "|---|---|---|"]
    rows += [f"| `{x.path}` | {shape_text(x.shape)} | {x.tensors:,} |" for x in found]
    return "\n".join([*rows, "", f"{sum(x.elements for x in found):,} parameters"])


# --- the weight map ---


def _rule(document: Document, token: Token, model: ModelSpec | None) -> str:
    """The parameters of the rule that a token of the weight map belongs to, and their first tensors."""
    statement = _statement_at(document, token.span.start)
    if statement is None or model is None or not statement.target:
        return ""
    paths = set(_paths(statement.target))
    found = [family for family in families(model) if _plain(family.path) in paths]
    if not found:
        return ""
    lines = [families_table(found)]
    spec = document.checked.spec
    if spec is not None and spec.checkpoint is not None:
        owner = {name: tensor.name for tensor in spec.checkpoint.tensors for name in tensor.parameters}
        first = [next(family.names()) for family in found]
        lines += [f"`{name}` is in `{owner[name]}`" for name in first[:4] if name in owner]
    return "\n\n".join(lines)


def _statement_at(document: Document, offset: int) -> Statement | None:
    for block in statements(document.outline.top):
        if block.block is not None and block.kind == "checkpoint":
            for one in statements(block.block):
                if one.block is None and start_of(one.elements[0]) <= offset <= end_of(one.elements[-1]):
                    return one
    return None


def _plain(path: str) -> str:
    return path.replace("[i]", "[]").replace("[e]", "[]")


def _paths(target: Sequence[Element]) -> Iterator[str]:
    """The paths that a left side stands for, `[]` in the place of every index."""
    head: list[str] = [""]
    for element in target:
        if isinstance(element, Token):
            head = [text + element.text for text in head if element.kind in PATH_KINDS]
        elif element.in_braces:
            names = [x.text for part in element.parts for x in part if isinstance(x, Token)]
            head = [text + name for text in head[:64] for name in names]
        else:
            head = [f"{text}[]" for text in head]
    yield from head


# --- paths of values ---


def _path(document: Document, token: Token) -> str:
    """The value at a path of `config { ... }`, up to the step under the cursor."""
    tokens = document.outline.tokens
    index = next(i for i, one in enumerate(tokens) if one is token)
    steps = [token.text]
    while index >= 2 and tokens[index - 1].kind == "DOT":
        index -= 2
        steps.insert(0, tokens[index].text)
    if document.tree is None or steps[0] not in (*document.names.bindings, "layers", "logits", "x"):
        return ""
    try:
        value = read_path(document.tree, steps)
    except NoPath as error:
        return f"`{'.'.join(steps)}`: {error.label}"
    return _fenced(f"{'.'.join(steps)} = {format_expression(value)}", "moe")


def _fenced(text: str, language: str = "") -> str:
    return f"```{language}\n{text}\n```"
