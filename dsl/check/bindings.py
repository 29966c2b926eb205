"""The bindings of a model: numbers, lists and patterns as values, everything else as components.

A binding with `match layer` in it, or one that refers to such a binding, is checked once for every distinct
choice over the layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from moec.dsl import catalogue as c
from moec.dsl import limits
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.components import Context, component
from moec.dsl.check.matching import Matcher, check_pattern, is_pattern
from moec.dsl.check.values import Scope, plain
from moec.dsl.check.variants import Variants, Work, has_match, variants
from moec.dsl.diagnostics import DiagnosticBag, Mistake, nearest
from moec.dsl.quantities import group
from moec.dsl.trees import renamed, walk
from moec.dsl.vocabulary import CONSTRUCTS


def _is_value(expr: s.Expr, exprs: Mapping[str, s.Expr]) -> bool:
    """Whether a binding is a number, a list or a pattern; of a match, whether its first arm is.

    An arm that is a word, such as `none`, does not tell, unless all of them are words.
    """
    waiting, seen, varies = [expr], set[str](), False
    while waiting:
        one = waiting.pop()
        if isinstance(one, s.Match):
            varies = True
            waiting.extend(arm.value for arm in reversed(one.arms))
        elif isinstance(one, s.Ref) and one.text in exprs and one.text not in seen:
            seen.add(one.text)
            waiting.append(exprs[one.text])
        elif not (varies and is_word(one)):
            return s.is_number(one) or is_pattern(one) or isinstance(one, s.ListOf)
    return varies


def is_word(expr: s.Expr) -> bool:
    """Whether an expression is a word that stands for itself, wherever it is."""
    return isinstance(expr, s.Ref) and expr.text in ("none", "true", "false")


@dataclass(frozen=True)
class Bindings:
    """All bindings as written, and which of them are another in every layer."""

    exprs: Mapping[str, s.Expr]
    refers: Mapping[str, frozenset[str]]  # to other bindings, by name
    varying: frozenset[str]
    values: frozenset[str]  # numbers, lists and patterns
    unsound: frozenset[str]  # those that refer to themselves, or on and on

    def closure(self, names: Iterable[str]) -> dict[str, s.Expr]:
        """The varying ones among some names, and those they refer to."""
        waiting = [name for name in names if name in self.varying]
        found: dict[str, s.Expr] = {}
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name] = self.exprs[name]
                waiting += sorted(self.refers[name] & self.varying)
        return found

    def constants(self) -> dict[str, s.Expr]:
        """The bindings that are values, and the same in all layers."""
        return {name: e for name, e in self.exprs.items() if name in self.values - self.varying}


def bindings(exprs: Mapping[str, s.Expr], bag: DiagnosticBag) -> Bindings:
    """Sort bindings by what they refer to, and report circles."""
    refers = {name: names_in([expr]) & exprs.keys() for name, expr in exprs.items()}
    referred: dict[str, list[str]] = {}
    for name, others in refers.items():
        for other in others:
            referred.setdefault(other, []).append(name)
    waiting = [name for name, expr in exprs.items() if has_match(expr)]
    varying: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in varying:
            varying.add(name)
            waiting += referred.get(name, [])
    values = frozenset(name for name, expr in exprs.items() if _is_value(expr, exprs))
    return Bindings(exprs, refers, frozenset(varying), values, _unsound(exprs, bag))


def _unsound(exprs: Mapping[str, s.Expr], bag: DiagnosticBag) -> frozenset[str]:
    """Bindings that refer to one another in a circle or in too long a row, and what refers to those."""
    waiting = {name: _needs(expr) & exprs.keys() for name, expr in exprs.items()}
    for _ in range(limits.REFERENCES):
        ready = {name for name, needs in waiting.items() if not needs}
        waiting = {name: needs - ready for name, needs in waiting.items() if name not in ready}
        if not waiting or not ready:
            break
    if waiting:
        circle = _circle(waiting)
        place = exprs[circle[0] if circle else next(iter(waiting))].span
        shown = " -> ".join(f"`{name}`" for name in circle[:4]) + (" -> ..." if len(circle) > 4 else "")
        deep = f"bindings refer to one another at most {limits.REFERENCES} deep"
        bag.add(c.CIRCULAR.at(place, f"a circle: {shown}") if circle else c.TOO_DEEP.at(place, deep))
    return frozenset(waiting)


def _circle(waiting: Mapping[str, frozenset[str]]) -> list[str]:
    """A circle among bindings that wait for one another, its first name again at the end; empty if none."""
    name, trail = next(iter(waiting)), dict[str, None]()
    while name not in trail:
        trail[name] = None
        if not waiting[name]:
            return []
        name = min(waiting[name])
    names = list(trail)
    return [*names[names.index(name) :], name]


def _needs(expr: s.Expr) -> frozenset[str]:
    """Names of what may be a binding: not what is called, nor the stages of a router and the like."""
    called = {id(one.callee) for one in walk(expr) if isinstance(one, s.Invoke)}
    names = (one.text for one in walk(expr) if isinstance(one, s.Ref) and id(one) not in called)
    return frozenset(name for name in names if name not in CONSTRUCTS or CONSTRUCTS[name].role == "component")


def names_in(exprs: Iterable[s.Expr]) -> frozenset[str]:
    """All names that stand in some expressions."""
    return frozenset(one.text for expr in exprs for one in walk(expr) if isinstance(one, s.Ref))


def scope_of(bound: Bindings, sizes: Mapping[str, s.Expr], bag: DiagnosticBag) -> Scope:
    """The values that are the same in all layers, checked as far as they can be alone."""
    values = bound.constants()
    scope = Scope(values | dict(sizes), bound.values & bound.varying)
    for name, value in values.items():
        if name not in bound.unsound:
            bag.attempt(_check_value, name, value, scope)
    return scope


def _check_value(name: str, value: s.Expr, scope: Scope) -> None:
    value = scope.resolve(value)
    if isinstance(value, s.ListOf):
        _check_list(name, value, scope)
    elif is_pattern(value):
        check_pattern(value, scope)
    else:
        plain(value, scope, f"{name}, a number")


def _check_list(name: str, value: s.ListOf, scope: Scope) -> None:
    if len(value.items) > limits.LIST_ITEMS:
        raise Mistake(c.TOO_LARGE.at(value.span, f"a list has at most {group(limits.LIST_ITEMS)} items"))
    for item in value.items:
        plain(item, scope, f"{name}, a list of numbers")


# --- components ---


@dataclass(frozen=True)
class Bound:
    """A component: its distinct forms, and which one each layer has.

    `of_layer` is empty if all layers have the first form. A form whose fault has been reported is None.
    """

    forms: tuple[m.Component | None, ...]
    of_layer: tuple[int, ...] = ()

    def form(self, layer: int) -> int:
        """The index of the form that a layer has."""
        return self.of_layer[layer] if self.of_layer else 0


@dataclass(frozen=True)
class Components:
    """The components that layers can call, by the names of their bindings."""

    by_name: Mapping[str, Bound]
    values: frozenset[str]  # names of numbers, lists and patterns
    bag: DiagnosticBag

    def find(self, ref: s.Ref) -> Bound:
        """The component of a name. Raises Mistake for other names."""
        name = ref.text
        if name in self.by_name:
            return self.by_name[name]
        if name in self.values:
            raise Mistake(c.WRONG_TYPE.at(ref.span, f"`{name}` is a number or a list, not a component"))
        advice = nearest(name, list(self.by_name))
        raise Mistake(
            c.UNKNOWN_NAME.at(ref.span, f"`{name}` is no component bound in the model", advice=advice)
        )

    def outside(self, ref: s.Ref) -> m.Component | None:
        """The component of a name outside of layers, where it must be the same for all of them."""
        bound = self.find(ref)
        if bound.of_layer:
            raise Mistake(c.VARIES.at(ref.span, f"`{ref.text}` is another in every layer"))
        return bound.forms[0]


@dataclass(frozen=True)
class Checker:
    """Checks bindings as components. `matcher` is None where the number of layers is not known."""

    bound: Bindings
    context: Context
    matcher: Matcher | None
    work: Work = field(default_factory=Work)

    def components(self) -> Components:
        """Every binding that is no value. What is wrong goes to the bag."""
        names = [name for name in self.bound.exprs if name not in self.bound.values]
        by_name = {name: self._component(name) for name in names}
        return Components(by_name, self.bound.values, self.context.bag)

    def _component(self, name: str) -> Bound:
        bag = self.context.bag
        if name in self.bound.unsound:
            return Bound((None,))
        if name not in self.bound.varying:
            return Bound((bag.attempt(component, self.bound.exprs[name], self.context),))
        found = bag.attempt(self.choices, self.bound.closure([name]), self.bound.exprs[name])
        if found is None:
            return Bound((None,))
        made = [bag.attempt(component, form[name], self.within(form)) for form in found.forms]
        index = {one: i for i, one in enumerate(dict.fromkeys(made))}
        return Bound(tuple(index), tuple(index[made[form]] for form in found.of_layer))

    def choices(self, exprs: Mapping[str, s.Expr], place: s.Expr) -> Variants | None:
        """The distinct forms over the layers of some expressions; None if the layers are not known."""
        if self.matcher is None:
            return None
        found = variants(exprs, self.matcher)
        if len(found.forms) > 1:
            self.work.spend(exprs.values(), len(found.forms), place.span)
        return replace(found, forms=tuple(map(self._with_words, found.forms)))

    def _with_words(self, form: Mapping[str, s.Expr]) -> Mapping[str, s.Expr]:
        """The form with words in the place of names that stand for them, as only numbers are read by name."""
        scope = Scope({name: expr for name, expr in form.items() if name in self.bound.values})
        resolved = {name: scope.resolve(expr) for name, expr in scope.values.items()}
        words = {name: expr for name, expr in resolved.items() if is_word(expr)}
        return {name: renamed(expr, words) for name, expr in form.items()} if words else form

    def within(self, form: Mapping[str, s.Expr]) -> Context:
        """The context with varying bindings replaced by one of their forms."""
        values = {name: expr for name, expr in form.items() if name in self.bound.values}
        scope = Scope({**self.context.scope.values, **values}) if values else self.context.scope
        return replace(self.context, scope=scope, bindings={**self.context.bindings, **form})
