"""`layers N { ... }`: equations over the residual stream and local names, every `match` decided."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.bindings import Checker, Components, names_in
from moec.dsl.check.expressions import STREAM, Reader, Reported, check_unique
from moec.dsl.check.values import Scope, whole
from moec.dsl.check.variants import Variants
from moec.dsl.diagnostics import DiagnosticBag, Mistake
from moec.dsl.trees import walk
from moec.dsl.vocabulary import RESERVED


def layer_count(block: s.Block, scope: Scope) -> int:
    """The N of `layers N`."""
    if block.header is None:
        raise Mistake(
            c.MISSING_SETTING.at(block.kind.span, "expected the number of layers: `layers 32 { ... }`")
        )
    header = block.header
    expr = s.Ref((header.text,), header.span) if isinstance(header, s.Name) else header
    return whole(expr, "layers", limits.LAYERS, scope=scope)


def layers(block: s.Block, components: Components, checker: Checker, width: int) -> tuple[m.Layer, ...]:
    """All layers, spelled out. Layers that compute the same are the same object."""
    if len(block.body) > limits.EQUATIONS:
        raise Mistake(c.TOO_LARGE.at(block.kind.span, f"a layer has at most {limits.EQUATIONS} equations"))
    bag = components.bag
    if not block.body:
        bag.add(c.MISSING_SETTING.at(block.kind.span, "a layer needs an equation, `x += f(norm(x))`"))
    equations = _equations(block, bag)
    _check_arms(equations, components)
    found = _choices(equations, checker)
    kinds = _Kinds(block, equations, components, checker, width)
    return tuple(kinds.layer(index, found) for index in range(len(found.of_layer))) if found else ()


def _equations(block: s.Block, bag: DiagnosticBag) -> dict[str, s.Setting]:
    """The sound statements of a layer, by their position."""
    checked = [bag.attempt(_equation, statement) for statement in block.body]
    return {str(index): one for index, one in enumerate(checked) if one is not None}


def _equation(statement: s.Statement) -> s.Setting:
    if isinstance(statement, s.Block):
        raise Mistake(c.BAD_EQUATION.at(statement.kind.span, "expected an equation, found a block"))
    target = statement.targets[0]
    if len(statement.targets) > 1 or statement.fallback is not None:
        raise Mistake(c.BAD_EQUATION.at(statement.span, "expected `x += f(norm(x))`"))
    if target.simple is None:
        raise Mistake(c.BAD_EQUATION.at(target.span, f"expected `{STREAM}`, found `{target.text}`"))
    return statement


def _check_arms(equations: Mapping[str, s.Setting], components: Components) -> None:
    """Report names that are no components in all arms of a match that is called, chosen or not."""
    for setting in equations.values():
        for one in walk(setting.value):
            if isinstance(one, s.Invoke) and isinstance(one.callee, s.Match):
                for arm in walk(one.callee, lambda inner: isinstance(inner, s.Match)):
                    if isinstance(arm, s.Ref):
                        components.bag.attempt(components.find, arm)


def _choices(equations: Mapping[str, s.Setting], checker: Checker) -> Variants | None:
    """The forms of all equations together, and of the varying numbers that stand in them."""
    if not equations:
        return None
    values = {position: setting.value for position, setting in equations.items()}
    numbers = names_in(values.values()) & checker.bound.values
    place = next(iter(values.values()))
    return checker.context.bag.attempt(
        checker.choices, values | checker.bound.closure(sorted(numbers)), place
    )


@dataclass(frozen=True)
class _Key:
    form: int
    components: tuple[tuple[str, int], ...]


class _Kinds:
    """Builds each kind of layer once."""

    def __init__(
        self,
        block: s.Block,
        equations: Mapping[str, s.Setting],
        components: Components,
        checker: Checker,
        width: int,
    ) -> None:
        self._block = block
        self._equations = equations
        self._components = components
        self._checker = checker
        self._width = width
        self._built: dict[_Key, m.Layer] = {}
        self._equal: dict[m.Layer, m.Layer] = {}
        self._called: dict[int, list[str]] = {}  # by form

    def layer(self, index: int, found: Variants) -> m.Layer:
        """One layer; the same object as every earlier one that is equal."""
        form = found.of_layer[index]
        by_name = self._components.by_name
        if form not in self._called:
            names = names_in(found.forms[form].values())
            self._called[form] = sorted(name for name in names & by_name.keys() if by_name[name].of_layer)
        key = _Key(form, tuple((name, by_name[name].form(index)) for name in self._called[form]))
        if key not in self._built:
            if self._built:
                self._checker.work.spend(found.forms[form].values(), 1, self._block.kind.span)
            layer = self._build(found.forms[form], index)
            self._built[key] = self._equal.setdefault(layer, layer)
        return self._built[key]

    def _build(self, form: Mapping[str, s.Expr], index: int) -> m.Layer:
        def find(ref: s.Ref) -> m.Component | None:
            bound = self._components.find(ref)
            return bound.forms[bound.form(index)]

        bag = self._components.bag
        targets = [setting.targets[0].simple or "" for setting in self._equations.values()]
        reader = Reader("layer", find, self._checker.within(form).scope, later=frozenset(targets))
        built = []
        for position, setting in self._equations.items():
            try:
                built.append(self._equation_of(setting, form[position], reader))
            except Reported:
                continue
            except Mistake as mistake:
                bag.add(mistake.diagnostic)
            finally:
                reader.locals.add(setting.targets[0].simple or "")
        self._check_locals(reader)
        check_unique(reader.calls, self._width, bag)
        return m.Layer(tuple(built), self._block.kind.span.origin())

    def _equation_of(self, setting: s.Setting, value: s.Expr, reader: Reader) -> m.Equation:
        target = setting.targets[0]
        name = target.simple or ""
        if name != STREAM:
            self._check_name(name, setting, reader)
        return m.Equation(name, setting.add, reader.value(value), setting.span.origin())

    def _check_name(self, name: str, setting: s.Setting, reader: Reader) -> None:
        place = setting.targets[0].span
        if name in RESERVED:
            raise Mistake(c.RESERVED.at(place, f"`{name}` has a fixed meaning and cannot be assigned"))
        if setting.add:
            label = f"only `{STREAM}` is added to; write `{name} = ...`"
            raise Mistake(c.BAD_LOCAL.at(place, label))
        if name in self._checker.bound.exprs:
            raise Mistake(c.BAD_LOCAL.at(place, f"`{name}` is bound in the model already"))
        if name in reader.locals:
            raise Mistake(c.BAD_LOCAL.at(place, f"`{name}` is assigned a second time"))

    def _check_locals(self, reader: Reader) -> None:
        """A value that nothing uses is a mistake, as its parameters would never be trained."""
        mentioned = names_in(setting.value for setting in self._equations.values())
        for setting in self._equations.values():
            name = setting.targets[0].simple or ""
            if name != STREAM and name not in reader.used and name not in mentioned:
                self._components.bag.add(
                    c.BAD_LOCAL.at(setting.targets[0].span, f"`{name}` is never used in the layer")
                )
