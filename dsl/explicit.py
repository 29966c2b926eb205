"""Every default written out: the tree of a checked text with each absent argument in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.values import Scope, whole
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.limits import HEADS, WIDTH
from moec.dsl.parse import parse_expression
from moec.dsl.quantities import group
from moec.dsl.source import SourceText, Span
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, MODEL, Param, find

_CALLED = frozenset(
    ("rope", "optimizer", "schedule", "init")
)  # where a bare name is a call without arguments


def explicit(file: s.File, spec: m.Spec) -> s.File:
    """The tree of `spec.text` with all defaults; checked again, it gives an equal spec."""
    model = file.block("model")
    assert model is not None
    fill = _Fill(_scope(model), spec)
    items: list[s.Item] = [fill.item(item) for item in file.items]
    present = {item.kind.text for item in items if isinstance(item, s.Block)}
    items += [fill.block(kind, _empty_block(kind, file.span)) for kind in BLOCKS if kind not in present]
    return replace(file, items=tuple(items))


def _scope(model: s.Block) -> Scope:
    return Scope({x.key: x.value for x in model.settings() if isinstance(x.value, s.Number)})


def _empty_block(kind: str, span: Span) -> s.Block:
    return s.Block(s.Name(kind, span), None, (), span)


def _expression(text: str) -> s.Expr:
    value = parse_expression(SourceText("<default>", text), DiagnosticBag())
    assert value is not None, text
    return value


class _Fill:
    def __init__(self, scope: Scope, spec: m.Spec) -> None:
        self._scope = scope
        self._spec = spec

    def item(self, item: s.Item) -> s.Item:
        if not isinstance(item, s.Block):
            return item
        if item.kind.text in BLOCKS:
            return self.block(item.kind.text, item)
        return self._model(item) if item.kind.text == "model" else item

    def _model(self, block: s.Block) -> s.Block:
        body = tuple(self._setting(x) if isinstance(x, s.Setting) else x for x in block.body)
        sizes = [i for i, x in enumerate(body) if isinstance(x, s.Setting) and find(MODEL, x.key)]
        missing = [p for p in MODEL if p.default is not None and block.find(p.name) is None]
        added = [self._default_setting(p, block) for p in missing]
        place = max(sizes) + 1
        return replace(block, body=(*body[:place], *added, *body[place:]))

    def block(self, kind: str, block: s.Block) -> s.Block:
        body = tuple(self._setting(x) if isinstance(x, s.Setting) else x for x in block.body)
        absent = [p for p in BLOCKS[kind] if p.supported and block.find(p.name) is None]
        unused = "epochs" if self._spec.train.epochs is None else "steps"
        added = [self._default_setting(p, block) for p in absent if p.name != unused]
        return replace(block, body=(*body, *added))

    def _default_setting(self, param: Param, block: s.Block) -> s.Setting:
        assert param.default is not None
        derived = {"sequence": self._spec.train.sequence, "steps": self._spec.train.steps or 0}
        value = _expression(str(derived[param.name]) if param.derived else param.default)
        target = s.Target((s.Field(param.name),), False, block.span)
        return self._setting(s.Setting((target,), False, value, None, block.span))

    def _setting(self, setting: s.Setting) -> s.Setting:
        return replace(setting, value=self._value(setting.value, setting.key))

    def _value(self, expr: s.Expr, name: str) -> s.Expr:
        """`name`: of the setting or argument the expression is the value of."""
        match expr:
            case s.Ref() if name in _CALLED and expr.text in CONSTRUCTS:
                return self._call(s.Invoke(expr, (), expr.span))
            case s.Invoke(callee=s.Ref()) if expr.name in CONSTRUCTS:
                return self._call(expr)
            case s.Repeat(body=body):
                return replace(expr, body=self._value(body, ""))
            case s.Pipe(stages=stages):
                return replace(expr, stages=tuple(self._value(x, "") for x in stages))
            case s.Sum(terms=terms):
                return replace(expr, terms=tuple(self._value(x, "") for x in terms))
        return expr

    def _call(self, call: s.Invoke) -> s.Invoke:
        construct = CONSTRUCTS[call.name]
        if construct.role == "function":
            return call
        named = [a.name or construct.params[0].name for a in call.arguments]
        given = tuple(
            replace(a, value=self._value(a.value, n)) for a, n in zip(call.arguments, named, strict=True)
        )
        absent = [p for p in construct.params if p.default is not None and p.name not in named]
        values = {n: a.value for n, a in zip(named, given, strict=True)}
        added = [s.Argument(p.name, self._default(p, values), call.span) for p in absent]
        order = {param.name: index for index, param in enumerate(construct.params)}
        ordered = sorted([*given, *added], key=lambda a: order[a.name] if a.name else 0)
        return replace(call, arguments=tuple(ordered))

    def _default(self, param: Param, values: dict[str, s.Expr]) -> s.Expr:
        assert param.default is not None
        derived: dict[str, Callable[[dict[str, s.Expr]], s.Expr]] = {
            "kv_heads": lambda v: v["heads"],
            "head_dim": self._head_dim,
        }
        return derived[param.name](values) if param.derived else _expression(param.default)

    def _head_dim(self, values: dict[str, s.Expr]) -> s.Expr:
        width = whole(self._scope.values["width"], "width", WIDTH)
        return _expression(group(width // whole(values["heads"], "heads", HEADS, scope=self._scope)))
