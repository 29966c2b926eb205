"""Every default written out: the tree of a checked text with each absent argument in its place.

A default that follows from other values is written where they are the same in all layers; where a `match`
gives one of them, the argument stays absent. Of two arguments that say the same (`dims` and `fraction` of a
position, `steps` and `epochs`), the one that is given stands alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.values import Scope, is_none
from moec.dsl.derived import Values, derived_default, expression, rotated_dims
from moec.dsl.source import Span
from moec.dsl.trees import rebuild
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, MODEL, Construct, Param, Role, find

_BINDING: tuple[Role, ...] = ("component", "pattern")
_ENDS: tuple[Role, ...] = ("function",)


def explicit(file: s.File, spec: m.Spec) -> s.File:
    """The tree of `spec.text` with all defaults; checked again, it gives an equal spec."""
    model = file.block("model")
    assert model is not None
    values = {setting.key: setting.value for setting in model.settings()}
    fill = _Fill(Scope(values), frozenset(values), spec)
    items: list[s.Item] = [fill.item(item) for item in file.items]
    present = {item.kind.text for item in items if isinstance(item, s.Block)}
    items += [fill.block(kind, _empty_block(kind, file.span)) for kind in BLOCKS if kind not in present]
    return replace(file, items=tuple(items))


def _empty_block(kind: str, span: Span) -> s.Block:
    return s.Block(s.Name(kind, span), None, (), span)


def _rules_out(param: Param, values: Values) -> bool:
    """Whether an argument that is given leaves no place for another's default."""
    return param.rival in values and not is_none(values[param.rival])


@dataclass(frozen=True)
class _Fill:
    scope: Scope
    bound: Collection[str]  # the names of the model's settings and bindings
    spec: m.Spec

    # --- blocks ---

    def item(self, item: s.Item) -> s.Item:
        """A block with every default; anything else as it is."""
        if not isinstance(item, s.Block):
            return item
        if item.kind.text in BLOCKS:
            return self.block(item.kind.text, item)
        return self._model(item) if item.kind.text == "model" else item

    def block(self, kind: str, block: s.Block) -> s.Block:
        """A block of settings."""
        body = tuple(self._in_block(kind, x) if isinstance(x, s.Setting) else x for x in block.body)
        values = {x.key: x.value for x in block.settings()}
        added: list[s.Setting] = []
        for param in (p for p in BLOCKS[kind] if p.supported and p.name not in values):
            if not _rules_out(param, values):
                added.append(self._default_setting(param, block))
                values[param.name] = added[-1].value
        return replace(block, body=(*body, *added))

    def _in_block(self, kind: str, setting: s.Setting) -> s.Setting:
        param = find(BLOCKS[kind], setting.key)
        return self._setting(setting, () if param is None else param.takes)

    def _default_setting(self, param: Param, block: s.Block) -> s.Setting:
        assert param.default is not None
        precision, train = self.spec.precision, self.spec.train
        derived = {
            **{name: getattr(precision, name) for name in ("params", "reduce", "router", "optimizer")},
            "sequence": train.sequence,
            "steps": train.steps or 0,
        }
        value = expression(str(derived[param.name]) if param.derived else param.default)
        target = s.Target((s.Field(param.name),), False, block.span)
        return self._setting(s.Setting((target,), False, value, None, block.span), param.takes)

    def _setting(self, setting: s.Setting, takes: Sequence[Role]) -> s.Setting:
        return replace(setting, value=self.value(setting.value, takes))

    # --- the model ---

    def _model(self, block: s.Block) -> s.Block:
        body = [self._statement(x) for x in block.body]
        missing = [p for p in MODEL if p.default is not None and block.find(p.name) is None]
        sizes = [i for i, x in enumerate(body) if isinstance(x, s.Setting) and find(MODEL, x.key)]
        place = max(sizes) + 1
        body[place:place] = [self._default_setting(p, block) for p in missing]
        if block.find("x") is None:
            place = next(i for i, x in enumerate(body) if isinstance(x, s.Block))
            body.insert(place, self._embedding(block))
        return replace(block, body=tuple(body))

    def _embedding(self, block: s.Block) -> s.Setting:
        target = s.Target((s.Field("x"),), False, block.span)
        blank = s.Trivia(leading=("",))
        return s.Setting((target,), False, expression("embed(tokens)"), None, block.span, blank)

    def _statement(self, statement: s.Statement) -> s.Statement:
        if isinstance(statement, s.Block):
            equations = (self._setting(x, ()) if isinstance(x, s.Setting) else x for x in statement.body)
            return replace(statement, body=tuple(equations))
        if statement.key in ("x", "logits"):
            return self._setting(statement, _ENDS)
        param = find(MODEL, statement.key)
        return self._setting(statement, _BINDING if param is None else param.takes)

    # --- values ---

    def value(self, expr: s.Expr, takes: Sequence[Role], head: s.Expr | None = None) -> s.Expr:
        """An expression with all defaults, in a place that takes constructs of some roles.

        `head`: the number of dims of a head, where a position can stand.
        """
        match expr:
            case s.Ref() if expr.text not in self.bound and self._is_call(expr.text, takes):
                call = self._call(CONSTRUCTS[expr.text], s.Invoke(expr, (), expr.span), head)
                return call if call.arguments else expr
            case s.Invoke(callee=s.Ref()) if self._is_call(expr.name, takes):
                return self._call(CONSTRUCTS[expr.name], expr, head)
            case s.Invoke(callee=s.Match() as callee, arguments=arguments):
                values = tuple(replace(a, value=self.value(a.value, takes)) for a in arguments)
                return replace(expr, callee=self._match(callee, (), None), arguments=values)
            case s.Match():
                return self._match(expr, takes, head)
            case s.Repeat(body=body):
                return replace(expr, body=self.value(body, takes))
        return rebuild(expr, lambda one: self.value(one, takes, head))

    def _is_call(self, name: str, takes: Sequence[Role]) -> bool:
        return name in CONSTRUCTS and CONSTRUCTS[name].role in takes

    def _match(self, match: s.Match, takes: Sequence[Role], head: s.Expr | None) -> s.Match:
        arms = (
            replace(
                arm, pattern=self.value(arm.pattern, ("pattern",)), value=self.value(arm.value, takes, head)
            )
            for arm in match.arms
        )
        return replace(match, arms=tuple(arms))

    def _call(self, construct: Construct, call: s.Invoke, head: s.Expr | None) -> s.Invoke:
        given = {a.name or construct.params[0].name: a for a in call.arguments}
        values = {name: argument.value for name, argument in given.items()}
        for param in construct.params:
            if param.name not in values and not _rules_out(param, values):
                default = self._default(construct, param, values, head)
                if default is not None:
                    values[param.name] = default
        head = rotated_dims(construct.name, values)
        arguments = []
        for param in (p for p in construct.params if p.name in values):
            value = self.value(values[param.name], param.takes, head)
            old = given.get(param.name, s.Argument(param.name, value, call.span))
            arguments.append(replace(old, value=value))
        return replace(call, arguments=tuple(arguments))

    def _default(
        self, construct: Construct, param: Param, values: Values, head: s.Expr | None
    ) -> s.Expr | None:
        if param.default is None:
            return None
        if construct.role == "position" and param.name == "dims":
            return head
        if param.derived:
            return derived_default(construct.name, param.name, values, self.scope)
        return expression(param.default)
