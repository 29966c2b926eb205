"""Where the names of a text are bound, and where mentioned: in equations, patterns, paths and rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from moec.dsl.tokens import Token
from moec.dsl.vocabulary import CONSTRUCTS, MODEL, RESERVED, Construct, Param

from .expect import means_word
from .tolerant import Element, Group, Outline, Statement, statements

SIZES = tuple(param.name for param in MODEL)
NORMS = ("rms_norm", "layer_norm")


@dataclass(frozen=True)
class Mention:
    """A name at [start, end). `scope` is the group a local name lives in, None for the model's bindings."""

    name: str
    start: int
    end: int
    defines: bool = False
    scope: int | None = None  # the offset of the braces of `layers N { ... }`


@dataclass(frozen=True)
class Binding:
    """A binding of the model. `value` is empty for one of a text that this one uses."""

    name: str
    value: tuple[Element, ...] = ()

    @property
    def constructs(self) -> frozenset[str]:
        """The constructs it can be: of a match, those of all arms."""
        return frozenset(_called(self.value))


@dataclass(frozen=True)
class Names:
    """All names of a text."""

    bindings: dict[str, Binding]
    mentions: tuple[Mention, ...]

    def at(self, offset: int) -> Mention | None:
        """The mention that an offset touches."""
        return next((one for one in self.mentions if one.start <= offset <= one.end), None)

    def same(self, mention: Mention) -> list[Mention]:
        """All mentions of the same name."""
        return [x for x in self.mentions if (x.name, x.scope) == (mention.name, mention.scope)]


def find_names(outline: Outline, inherited: dict[str, Binding] | None = None) -> Names:
    """The names of a text. `inherited`: bindings of the texts that it uses."""
    finder = _Finder(dict(inherited or {}))
    found = [block for block in statements(outline.top) if block.block is not None]
    for block in found:
        if block.kind == "model" and block.block is not None:
            finder.bind(block.block)
    for block in found:
        assert block.block is not None
        if block.kind == "model":
            finder.model(block.block)
        elif block.kind == "checkpoint":
            finder.checkpoint(block.block)
    return Names(finder.bindings, tuple(sorted(finder.mentions, key=lambda one: one.start)))


def _called(value: Sequence[Element]) -> Iterator[str]:
    """The constructs called by a value itself, not inside their arguments."""
    for element, following in zip_longest(value, value[1:]):
        if isinstance(element, Token):
            called = isinstance(following, Group) and following.opener and following.opener.kind == "LPAR"
            if called and element.text in CONSTRUCTS:
                yield element.text
        elif element.opener is not None and element.opener.kind == "LBRACE":
            for part in element.parts:
                yield from _called(part)


@dataclass
class _Finder:
    bindings: dict[str, Binding]
    mentions: list[Mention] = field(default_factory=list)
    _locals: set[str] = field(default_factory=set)
    _scope: int | None = None

    def bind(self, model: Group) -> None:
        """Note the bindings, which may be mentioned above the line that binds them."""
        for statement in statements(model):
            name = statement.name
            if name is not None and statement.equals is not None and name.text not in RESERVED:
                self.bindings[name.text] = Binding(name.text, statement.value)

    # --- the model ---

    def model(self, model: Group) -> None:
        """A model block: definitions, values, layers."""
        for statement in statements(model):
            layers = statement.block
            if layers is not None:
                self._layers(statement, layers)
                continue
            name = statement.name
            if name is not None and name.text in self.bindings:
                self._mention(name, defines=statement.equals is not None)
            is_equation = name is not None and name.text in ("x", "logits")
            self._value(statement.value, None, calls=is_equation)

    def _layers(self, statement: Statement, layers: Group) -> None:
        if statement.header is not None:
            self._plain([statement.header])
        found = list(statements(layers))
        names = {x.name.text for x in found if x.name is not None and x.equals is not None}
        self._locals, self._scope = names - RESERVED - self.bindings.keys(), layers.start
        for equation in found:
            if equation.name is not None and equation.name.text in self._locals:
                self._mention(equation.name, defines=equation.equals is not None)
            self._value(equation.value or equation.target, None, calls=True)
        self._locals, self._scope = set(), None

    def _mention(self, token: Token, defines: bool = False) -> None:
        scope = self._scope if token.text in self._locals else None
        self.mentions.append(Mention(token.text, token.span.start, token.span.end, defines, scope))

    def _known(self, name: str) -> bool:
        return name in self._locals or name in self.bindings or name in SIZES

    # --- values ---

    def _value(self, elements: Sequence[Element], param: Param | None, calls: bool) -> None:
        """Mentions in a value of `param`; `calls`: a component can be called, as in equations."""
        for index, element in enumerate(elements):
            before = elements[index - 1] if index else None
            after = elements[index + 1] if index + 1 < len(elements) else None
            if isinstance(element, Group):
                self._inside(element, before, param, calls)
            elif element.kind == "NAME" and self._is_mention(element, before, after, param, calls):
                self._mention(element)

    def _is_mention(
        self, token: Token, before: Element | None, after: Element | None, param: Param | None, calls: bool
    ) -> bool:
        if not self._known(token.text) or _kind(before) in ("DOT", "MATCH") or _kind(after) == "COLON":
            return False
        if _kind(after) == "LPAR":
            return calls
        return calls or not means_word(token.text, param)

    def _inside(self, group: Group, before: Element | None, param: Param | None, calls: bool) -> None:
        is_match = group.in_braces
        construct = CONSTRUCTS.get(before.text) if isinstance(before, Token) and not is_match else None
        for position, part in enumerate(group.parts):
            if is_match:
                self._arm(part, param, calls)
            elif construct is not None and not (calls and self._known(construct.name)):
                self._argument(part, position, construct, calls)
            else:
                self._value(part, param, calls)

    def _arm(self, part: Sequence[Element], param: Param | None, calls: bool) -> None:
        arrow = next((i for i, x in enumerate(part) if _kind(x) == "ARROW"), len(part))
        self._value(part[:arrow], None, calls=False)
        self._value(part[arrow + 1 :], param, calls)

    def _argument(self, part: Sequence[Element], position: int, construct: Construct, calls: bool) -> None:
        name, value = argument(part)
        first = construct.params[0] if construct.params and position == 0 else None
        param = construct.param(name.text) if name is not None else first
        self._value(value, param, calls)

    def _plain(self, elements: Sequence[Element]) -> None:
        self._value(elements, None, calls=False)

    # --- the weight map ---

    def checkpoint(self, block: Group) -> None:
        """Rules, whose left sides are paths of parameters, and `config { ... }`."""
        for statement in statements(block):
            config = statement.block
            if config is not None:
                for entry in statements(config):
                    self._plain(entry.value)
            elif statement.elements:
                self._rule(statement.target)

    def _rule(self, target: Sequence[Element]) -> None:
        steps = [names for names in _steps(target) if names]
        in_layer = bool(steps) and steps[0][0].text == "layers"
        for depth, names in enumerate(steps[1:] if in_layer else steps):
            for token in names:
                self._step(token, depth)

    def _step(self, token: Token, depth: int) -> None:
        """A component, or a norm: `norm`, `post_norm`, `embed_norm`, each perhaps with `_bias`."""
        text = token.text
        if depth == 0 and text in self.bindings:
            self._mention(token)
            return
        norm = next((name for name in _norm_names(text) if self._is_norm(name)), None)
        if norm is not None:
            start = token.span.start + (0 if text.startswith(norm) else text.index("_") + 1)
            self.mentions.append(Mention(norm, start, start + len(norm)))

    def _is_norm(self, name: str) -> bool:
        binding = self.bindings.get(name)
        return binding is not None and (not binding.value or bool(binding.constructs & {*NORMS}))


def _norm_names(step: str) -> Iterator[str]:
    """The names of norms that a step of a parameter's name can be made of."""
    for text in (step, step.removesuffix("_bias")):
        yield text
        for prefix in ("post_", "embed_"):
            if text.startswith(prefix):
                yield text.removeprefix(prefix)


def _steps(target: Sequence[Element]) -> Iterator[list[Token]]:
    """The names of each step of a path: one, or the alternatives of `{a, b}`; none of an index."""
    for element in target:
        if isinstance(element, Token):
            if element.kind == "NAME":
                yield [element]
        elif element.in_braces:
            yield [x for part in element.parts for x in part if isinstance(x, Token) and x.kind == "NAME"]


def _kind(element: Element | None) -> str:
    if isinstance(element, Group):
        return element.opener.kind if element.opener else ""
    return element.kind if element is not None else ""


def argument(part: Sequence[Element]) -> tuple[Token | None, Sequence[Element]]:
    """An argument's name, if it has one, and its value."""
    match part:
        case [Token(kind="NAME") as name, Token(kind="COLON"), *_]:
            return name, part[2:]
    return None, part
