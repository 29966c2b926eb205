"""`model NAME { ... }` -> `ModelSpec`."""

from __future__ import annotations

from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl import limits, parameters
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import bind, callee
from moec.dsl.check.components import Context, component
from moec.dsl.check.layers import Components, head, layers
from moec.dsl.check.values import Scope, real, whole, whole_list, wrong_type
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.quantities import group
from moec.dsl.vocabulary import MODEL, RESERVED

_SETTINGS = tuple(param.name for param in MODEL)
DEFAULT_INIT_STD = 0.02
_FALLBACK = m.Head(m.Var("x"))


def check_model(block: s.Block, bag: DiagnosticBag) -> m.ModelSpec:
    """The model a block describes. What is wrong goes to the bag; the result is then not to be used."""
    parts = _sort(block, bag)
    sizes = {name: bag.attempt(_size, parts, name) for name in _SETTINGS[:3]}
    scope = _scope(parts, bag)
    context = Context(sizes["width"], scope, parts.bindings, bag)
    components = Components(_components(parts, context), frozenset(scope.values), bag)
    model = m.ModelSpec(
        name=_name(block, bag),
        vocab=sizes["vocab"] or 1,
        width=sizes["width"] or 1,
        context=sizes["context"] or limits.CONTEXT,
        layers=_layers(parts, components, scope),
        head=bag.attempt(_head, parts, components) or _FALLBACK,
        init_std=bag.attempt(_init_std, parts, context) or DEFAULT_INIT_STD,
        origin=block.kind.span.origin(),
    )
    if not len(bag):
        _check_size(model, block, bag)
    return model


@dataclass(frozen=True)
class _Parts:
    """The statements of a model block by their role."""

    block: s.Block
    settings: dict[str, s.Setting]  # vocab, width, context, init, logits
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
        elif name in _SETTINGS or name == "logits":
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
    if target.simple in RESERVED - {"logits"}:
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


def _scope(parts: _Parts, bag: DiagnosticBag) -> Scope:
    """Integer and list bindings, checked, and the sizes of the model."""
    values: dict[str, s.Expr] = {}
    for name, value in parts.bindings.items():
        match value:
            case s.Number():
                bag.attempt(whole, value, name, limits.FFN_WIDTH, 0)
            case s.ListOf():
                bag.attempt(whole_list, value, name, 0, limits.FFN_WIDTH, limits.LIST_ITEMS)
            case _:
                continue
        values[name] = value
    sizes = {name: parts.settings[name].value for name in _SETTINGS[:3] if name in parts.settings}
    return Scope(values | {name: size for name, size in sizes.items() if isinstance(size, s.Number)})


def _components(parts: _Parts, context: Context) -> dict[str, m.Component | None]:
    """Every binding that is no number: its component, or None after its fault has been reported."""
    made: dict[str, m.Component | None] = {}
    for name, value in parts.bindings.items():
        if not isinstance(value, s.Number | s.ListOf):
            made[name] = context.bag.attempt(component, value, context)
    return made


def _layers(parts: _Parts, components: Components, scope: Scope) -> tuple[m.Layer, ...]:
    if parts.layers is None:
        label = "the model lacks `layers N { ... }`"
        components.bag.add(c.MISSING_SETTING.at(parts.block.kind.span, label))
        return ()
    return components.bag.attempt(layers, parts.layers, components, scope) or ()


def _head(parts: _Parts, components: Components) -> m.Head:
    if "logits" not in parts.settings:
        raise Mistake(
            c.MISSING_SETTING.at(parts.block.kind.span, "the model lacks `logits = linear(norm(x))`")
        )
    return head(parts.settings["logits"].value, components)


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
