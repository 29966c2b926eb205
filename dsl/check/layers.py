"""`layers N { ... }` and `logits = ...`: equations over the residual stream, `match` decided, parameters
named.

Names of parameters follow the text. A component called in a layer has its binding's name; a norm inside its
argument is `<component>.<norm>`, a norm around it `<component>.post_<norm>`, a norm alone its binding's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.matching import Chooser, chooser
from moec.dsl.check.values import Scope, not_yet, whole
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.source import Span

STREAM = "x"


@dataclass(frozen=True)
class Components:
    """The bindings a layer can call. One whose fault has been reported is None."""

    by_name: Mapping[str, m.Component | None]
    numbers: frozenset[str]  # names bound to numbers and lists
    bag: DiagnosticBag

    def find(self, ref: s.Ref) -> m.Component | None:
        """The component of a name; None if its fault has been reported. Raises Mistake for other names."""
        name = ref.text
        if name in self.by_name:
            return self.by_name[name]
        if name in self.numbers:
            raise Mistake(c.WRONG_TYPE.at(ref.span, f"`{name}` is a number or a list, not a component"))
        advice = nearest(name, list(self.by_name))
        raise Mistake(
            c.UNKNOWN_NAME.at(ref.span, f"`{name}` is no component bound in the model", advice=advice)
        )


def layers(block: s.Block, components: Components, scope: Scope) -> tuple[m.Layer, ...]:
    """All layers, spelled out. Layers that choose the same components are the same object."""
    total = _count(block, scope)
    if len(block.body) > limits.EQUATIONS:
        raise Mistake(c.TOO_LARGE.at(block.kind.span, f"a layer has at most {limits.EQUATIONS} equations"))
    assigned = {x.targets[0].simple or "" for x in block.body if isinstance(x, s.Setting)}
    reader = _Reader(components, scope, total, frozenset(assigned - {STREAM}))
    equations = [components.bag.attempt(reader.equation, item) for item in block.body]
    if not block.body:
        components.bag.add(
            c.MISSING_SETTING.at(block.kind.span, "a layer needs an equation, `x += f(norm(x))`")
        )
    sound = [equation for equation in equations if equation is not None]
    built: dict[tuple[int, ...], m.Layer] = {}
    result = []
    for index in range(total):
        choice = tuple(one.arms[index] for equation in sound for one in equation.choosers())
        if choice not in built:
            built[choice] = _layer(block, sound, index, components.bag)
        result.append(built[choice])
    return tuple(result)


def head(expr: s.Expr, components: Components) -> m.Head:
    """`linear(norm(x))`: what the output projection takes."""
    if not isinstance(expr, s.Invoke) or expr.name != "linear":
        raise Mistake(c.BAD_HEAD.at(expr.span, f"expected `linear(...)`, found {s.describe(expr)}"))
    reader = _Reader(components, Scope({}), 0)
    chain = reader.chain(_only_argument(expr))
    if chain is None:  # reported at the binding
        return m.Head(m.Var(STREAM))
    calls = _name_calls(chain, 0, in_layer=False)
    _check_unique(calls, components.bag)
    for call in calls:
        if isinstance(call.component, m.Moe):
            raise not_yet(call.call, "a mixture of experts in the output")
    return m.Head(_expression(calls, expr.span), origin=expr.span.origin())


def _count(block: s.Block, scope: Scope) -> int:
    if block.header is None:
        raise Mistake(
            c.MISSING_SETTING.at(block.kind.span, "expected the number of layers: `layers 32 { ... }`")
        )
    header = block.header
    expr = s.Ref((header.text,), header.span) if isinstance(header, s.Name) else header
    return whole(expr, "layers", limits.LAYERS, scope=scope)


# --- an equation as written: a chain of calls, outermost first, ending in `x` ---


@dataclass(frozen=True)
class _Use:
    """One call: a component by name, or a `match` that chooses one per layer."""

    options: tuple[tuple[str, m.Component], ...]
    chooser: Chooser | None
    call: s.Invoke

    def pick(self, layer: int) -> tuple[str, m.Component]:
        return self.options[self.chooser.arms[layer] if self.chooser else 0]


@dataclass(frozen=True)
class _Equation:
    setting: s.Setting
    chain: tuple[_Use, ...]

    def choosers(self) -> Iterator[Chooser]:
        return (use.chooser for use in self.chain if use.chooser is not None)


@dataclass(frozen=True)
class _Reader:
    components: Components
    scope: Scope
    layers: int
    locals: frozenset[str] = frozenset()  # names assigned in the layer, which is not supported yet

    def equation(self, statement: s.Statement) -> _Equation | None:
        """None where the fault has been reported already, at the binding of a component."""
        if isinstance(statement, s.Block):
            raise Mistake(c.BAD_EQUATION.at(statement.kind.span, "expected an equation, found a block"))
        target = statement.targets[0]
        if len(statement.targets) > 1 or statement.fallback is not None:
            raise Mistake(c.BAD_EQUATION.at(statement.span, "expected `x += f(norm(x))`"))
        if target.simple is None:
            raise Mistake(c.BAD_EQUATION.at(target.span, f"expected `{STREAM}`, found `{target.text}`"))
        if target.simple != STREAM:
            raise not_yet(statement, f"the local name `{target.simple}` in a layer")
        chain = self.chain(statement.value)
        return None if chain is None else _Equation(statement, chain)

    def chain(self, expr: s.Expr) -> tuple[_Use, ...] | None:
        """The calls of an expression, outermost first; None if a component of it is not sound."""
        uses: list[_Use | None] = []
        while isinstance(expr, s.Invoke):
            uses.append(self._use(expr))
            expr = _only_argument(expr)
        if isinstance(expr, s.Sum):
            raise not_yet(expr, "a sum inside an equation")
        if not isinstance(expr, s.Ref):
            raise Mistake(
                c.BAD_EQUATION.at(expr.span, f"expected `{STREAM}` or a call, found {s.describe(expr)}")
            )
        if expr.text in self.locals:
            raise not_yet(expr, f"the local name `{expr.text}` in a layer")
        if expr.text != STREAM:
            advice = nearest(expr.text, [STREAM])
            label = f"expected `{STREAM}`, the residual stream, found `{expr.text}`"
            raise Mistake(c.BAD_EQUATION.at(expr.span, label, advice=advice))
        sound = tuple(use for use in uses if use is not None)
        return sound if len(sound) == len(uses) else None

    def _use(self, call: s.Invoke) -> _Use | None:
        if isinstance(call.callee, s.Ref):
            found = self.components.find(call.callee)
            return None if found is None else _Use(((call.name, found),), None, call)
        return self._match(call, call.callee)

    def _match(self, call: s.Invoke, match: s.Match) -> _Use | None:
        if not self.layers:
            raise Mistake(c.MISPLACED.at(match.span, "`match layer` stands inside `layers N { ... }`"))
        options: list[tuple[str, m.Component]] = []
        for arm in match.arms:
            if not isinstance(arm.value, s.Ref):
                label = f"an arm gives a component by name, found {s.describe(arm.value)}"
                raise Mistake(c.BAD_EQUATION.at(arm.value.span, label))
            component = self.components.find(arm.value)
            if component is not None:
                options.append((arm.value.text, component))
        choose = chooser(match, self.layers, self.scope)
        return _Use(tuple(options), choose, call) if len(options) == len(match.arms) else None


def _only_argument(call: s.Invoke) -> s.Expr:
    if len(call.arguments) != 1 or call.arguments[0].name is not None:
        raise Mistake(
            c.BAD_EQUATION.at(call.span, "a component takes one value here: `f(x)` or `f(norm(x))`")
        )
    return call.arguments[0].value


# --- parameters named ---


@dataclass(frozen=True)
class _Named:
    path: str
    component: m.Component
    call: s.Invoke


def _layer(block: s.Block, equations: list[_Equation], index: int, bag: DiagnosticBag) -> m.Layer:
    named = [_name_calls(equation.chain, index, in_layer=True) for equation in equations]
    _check_unique([call for calls in named for call in calls], bag)
    built = tuple(
        m.Equation(STREAM, e.setting.add, _expression(calls, e.setting.value.span), e.setting.span.origin())
        for e, calls in zip(equations, named, strict=True)
    )
    return m.Layer(built, block.kind.span.origin())


def _name_calls(chain: tuple[_Use, ...], layer: int, in_layer: bool) -> list[_Named]:
    """Give every call its path. `owner` of a norm: the component around it, else the one it is around."""
    picked = [(use, *use.pick(layer)) for use in chain]
    owners = [name for _, name, component in picked if not isinstance(component, m.RmsNorm)]
    named: list[_Named] = []
    around = ""
    for use, name, component in picked:
        path = name
        if not isinstance(component, m.RmsNorm):
            around = name
        elif in_layer and around:
            path = f"{around}.{name}"
        elif in_layer and owners:
            path = f"{owners[0]}.post_{name}"
        named.append(_Named(path, component, use.call))
    return named


def _check_unique(calls: list[_Named], bag: DiagnosticBag) -> None:
    seen: set[str] = set()
    for call in calls:
        if call.path in seen:
            label = f"a second use of `{call.path}` in this layer"
            advice = "bind the component to another name and use that"
            bag.add(c.PARAMETERS_TWICE.at(call.call.callee.span, label, advice=advice))
        seen.add(call.path)


def _expression(calls: list[_Named], span: Span) -> m.Expression:
    value: m.Expression = m.Var(STREAM, span.origin())
    for call in reversed(calls):
        value = m.Call(call.path, call.component, value, call.call.span.origin())
    return value
