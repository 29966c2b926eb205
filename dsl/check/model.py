"""`model NAME { ... }` -> `ModelSpec`."""

from __future__ import annotations

from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl import limits, parameters
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.bindings import Checker, Components, bindings, scope_of
from moec.dsl.check.components import Context
from moec.dsl.check.components.balance import check_agreement
from moec.dsl.check.ends import embed, head
from moec.dsl.check.expressions import STREAM
from moec.dsl.check.layers import layer_count, layers
from moec.dsl.check.matching import Matcher
from moec.dsl.check.values import Scope, real, whole, wrong_type
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.quantities import group
from moec.dsl.trees import walk
from moec.dsl.vocabulary import MODEL, RESERVED

_SETTINGS = tuple(param.name for param in MODEL)
_ENDS = frozenset((STREAM, "logits"))  # equations before and after the layers
DEFAULT_INIT_STD = 0.02
_FALLBACK = m.Head(m.Var("x"))


def check_model(block: s.Block, bag: DiagnosticBag) -> m.ModelSpec:
    """The model a block describes. What is wrong goes to the bag; the result is then not to be used."""
    parts = _sort(block, bag)
    sizes = {name: bag.attempt(_size, parts, name) for name in _SETTINGS[:3]}
    width = sizes["width"] or 1
    checker = _checker(parts, sizes["width"], bag)
    components = checker.components()
    embedding = bag.attempt(_embed, parts, components, checker.context.scope) or m.Embed()
    model = m.ModelSpec(
        name=_name(block, bag),
        vocab=sizes["vocab"] or 1,
        width=width,
        context=sizes["context"] or limits.CONTEXT,
        layers=_layers(parts, components, checker, width),
        head=bag.attempt(_head, parts, components, checker.context.scope, embedding, width) or _FALLBACK,
        embed=embedding,
        init_std=bag.attempt(_init_std, parts, checker.context) or DEFAULT_INIT_STD,
        origin=block.kind.span.origin(),
    )
    if not len(bag):
        _check_size(model, block, bag)
        check_agreement(model, parts.bindings.values(), block.kind.span, bag)
    return model


@dataclass(frozen=True)
class _Parts:
    """The statements of a model block by their role."""

    block: s.Block
    settings: dict[str, s.Setting]  # vocab, width, context, init, x, logits
    bindings: dict[str, s.Expr]
    layers: s.Block | None


def _sort(block: s.Block, bag: DiagnosticBag) -> _Parts:
    settings: dict[str, s.Setting] = {}
    bindings: dict[str, s.Expr] = {}
    layer_block: s.Block | None = None
    for statement in block.body:
        if isinstance(statement, s.Block):
            if bag.attempt(_layer_block, statement, layer_block):
                layer_block = statement
            continue
        name = bag.attempt(_setting_name, statement)
        if name is None:
            continue
        if name in settings or name in bindings:
            bag.add(c.DUPLICATE.at(statement.targets[0].span, f"`{name}` is given twice"))
        elif name in _SETTINGS or name in _ENDS:
            settings[name] = statement
        else:
            bindings[name] = statement.value
    return _Parts(block, settings, bindings, layer_block)


def _layer_block(block: s.Block, seen: s.Block | None) -> bool:
    if block.kind.text != "layers":
        advice = nearest(block.kind.text, ["layers"])
        label = f"a model holds one block, `layers N {{ ... }}`, not `{block.kind.text}`"
        raise Mistake(c.UNKNOWN_BLOCK.at(block.kind.span, label, advice=advice))
    if seen is not None:
        raise Mistake(c.NOT_YET.at(block.kind.span, "a second `layers` block is not supported yet"))
    return True


def _setting_name(statement: s.Setting) -> str:
    target = statement.targets[0]
    if statement.add or statement.fallback or len(statement.targets) > 1:
        raise Mistake(c.MISPLACED.at(statement.span, "a statement of a model is `name = value`"))
    if target.simple is None:
        raise Mistake(c.MISPLACED.at(target.span, "expected a bare name"))
    if target.simple in RESERVED - _ENDS:
        raise Mistake(
            c.RESERVED.at(target.span, f"`{target.simple}` has a fixed meaning and cannot be bound")
        )
    return target.simple


def _name(block: s.Block, bag: DiagnosticBag) -> str:
    if isinstance(block.header, s.Name):
        return block.header.text
    place = block.header.span if block.header else block.kind.span
    bag.add(c.MISSING_SETTING.at(place, "a model has a name: `model NAME { ... }`"))
    return "unnamed"


def _size(parts: _Parts, name: str) -> int:
    if name not in parts.settings:
        raise Mistake(c.MISSING_SETTING.at(parts.block.kind.span, f"the model lacks `{name} = ...`"))
    limit = {"vocab": limits.VOCAB, "width": limits.WIDTH, "context": limits.CONTEXT}[name]
    return whole(parts.settings[name].value, name, limit, prefix_of_tokens=name == "context")


def _checker(parts: _Parts, width: int | None, bag: DiagnosticBag) -> Checker:
    bound = bindings(parts.bindings, bag)
    sizes = {name: parts.settings[name].value for name in _SETTINGS[:3] if name in parts.settings}
    scope = scope_of(bound, {name: size for name, size in sizes.items() if isinstance(size, s.Number)}, bag)
    matcher = None if parts.layers is None else bag.attempt(_matcher, parts.block, parts.layers, scope)
    return Checker(bound, Context(width, scope, parts.bindings, bag), matcher)


def _matcher(block: s.Block, layer_block: s.Block, scope: Scope) -> Matcher:
    """Decides matches. Their arms are limited, as each looks at all layers."""
    count, arms = layer_count(layer_block, scope), 0
    exprs = [x.value for x in block.settings()]
    exprs += [x.value for inner in block.body if isinstance(inner, s.Block) for x in inner.settings()]
    for match in (one for expr in exprs for one in walk(expr) if isinstance(one, s.Match)):
        arms += len(match.arms)
        if arms * count > limits.DECISIONS:
            most = limits.DECISIONS // count
            label = f"the matches of a model of {group(count)} layers have at most {most} arms together"
            raise Mistake(c.TOO_LARGE.at(match.span, label))
    return Matcher(count, scope)


def _embed(parts: _Parts, components: Components, scope: Scope) -> m.Embed:
    if STREAM not in parts.settings:
        return m.Embed()
    return embed(parts.settings[STREAM].value, components, scope)


def _layers(parts: _Parts, components: Components, checker: Checker, width: int) -> tuple[m.Layer, ...]:
    if parts.layers is None:
        label = "the model lacks `layers N { ... }`"
        components.bag.add(c.MISSING_SETTING.at(parts.block.kind.span, label))
        return ()
    return components.bag.attempt(layers, parts.layers, components, checker, width) or ()


def _head(parts: _Parts, components: Components, scope: Scope, embedding: m.Embed, width: int) -> m.Head:
    if "logits" not in parts.settings:
        raise Mistake(
            c.MISSING_SETTING.at(parts.block.kind.span, "the model lacks `logits = linear(norm(x))`")
        )
    return head(parts.settings["logits"].value, components, scope, embedding, width)


def _init_std(parts: _Parts, context: Context) -> float:
    if "init" not in parts.settings:
        return DEFAULT_INIT_STD
    value = parts.settings["init"].value
    if not isinstance(value, s.Invoke):
        raise wrong_type(value, "`normal(std: 0.02)`")
    construct, call = callee(value, ("init",), "`normal(std: 0.02)`")
    args = bind(construct, call, context.bag)
    return args.read("std", lambda e: real(e, "std", high=10.0), DEFAULT_INIT_STD)


def _check_size(model: m.ModelSpec, block: s.Block, bag: DiagnosticBag) -> None:
    total, _ = parameters.count(model)
    if total > limits.PARAMETERS:
        label = f"{group(total)} parameters; at most {group(limits.PARAMETERS)}"
        bag.add(c.TOO_MANY_PARAMETERS.at(block.kind.span, label))
