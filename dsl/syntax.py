"""The syntax tree: what is written, before it means anything. All nodes are frozen and know their place.

Places and comments take no part in equality, so two trees are equal when they say the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from moec.dsl.source import Span


@dataclass(frozen=True)
class Trivia:
    """What surrounds a node without changing its meaning.

    `leading`: comment lines above it (without `#`, stripped on the right), "" for a blank line. `trailing`:
    the comment at the end of its line, or None.
    """

    leading: tuple[str, ...] = ()
    trailing: str | None = None


NO_TRIVIA = Trivia()


@dataclass(frozen=True)
class Name:
    """An identifier."""

    text: str
    span: Span = field(compare=False, repr=False)


# --- expressions ---


@dataclass(frozen=True)
class Number:
    """A number as written, with its suffix (`80GiB`) and the word after it (`tokens`), if any."""

    text: str
    word: str
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class String:
    """The characters between the quotes. There are no escapes."""

    text: str
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Ref:
    """A name, or a dotted path of names."""

    names: tuple[str, ...]
    span: Span = field(compare=False, repr=False)

    @property
    def text(self) -> str:
        """The path as written."""
        return ".".join(self.names)


@dataclass(frozen=True)
class Argument:
    """`name: value`, or a value by position."""

    name: str | None
    value: Expr
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = field(default=NO_TRIVIA, compare=False, repr=False)


@dataclass(frozen=True)
class Invoke:
    """`callee(arguments)`."""

    callee: Ref | Match
    arguments: tuple[Argument, ...]
    span: Span = field(compare=False, repr=False)
    tail: tuple[str, ...] = field(default=(), compare=False, repr=False)  # comments after the last argument

    @property
    def name(self) -> str:
        """The callee's name; empty for a `match`."""
        return self.callee.text if isinstance(self.callee, Ref) else ""


@dataclass(frozen=True)
class ListOf:
    """`[a, b]`."""

    items: tuple[Expr, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class TupleOf:
    """`(a, b)`."""

    items: tuple[Expr, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Range:
    """`start..stop`, half open."""

    start: Expr
    stop: Expr
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Repeat:
    """`count of body`."""

    count: Expr
    body: Expr
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Pipe:
    """`a | b | c`."""

    stages: tuple[Expr, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Sum:
    """`a + b`."""

    terms: tuple[Expr, ...]
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True)
class Product:
    """`a * b / c`, from left to right: `operators[i]` is the `*` or `/` before `factors[i + 1]`."""

    factors: tuple[Expr, ...]
    operators: tuple[str, ...]
    span: Span = field(compare=False, repr=False)

    def steps(self) -> tuple[tuple[str, Expr], ...]:
        """Each factor with the operator before it; `*` before the first."""
        return tuple(zip(("*", *self.operators), self.factors, strict=True))


@dataclass(frozen=True)
class Arm:
    """`pattern => value` of a match."""

    pattern: Expr
    value: Expr
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = field(default=NO_TRIVIA, compare=False, repr=False)


@dataclass(frozen=True)
class Match:
    """`match subject { arms }`."""

    subject: str
    arms: tuple[Arm, ...]
    span: Span = field(compare=False, repr=False)
    tail: tuple[str, ...] = field(default=(), compare=False, repr=False)


Expr = Number | String | Ref | Invoke | ListOf | TupleOf | Range | Repeat | Pipe | Sum | Product | Match


# --- statements ---


@dataclass(frozen=True)
class Field:
    """`.name` of a target."""

    name: str


@dataclass(frozen=True)
class Index:
    """`[i]` of a target: a variable over layers or experts."""

    variable: str


@dataclass(frozen=True)
class Choice:
    """`.{a, b}` of a target."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Target:
    """What stands left of `=`. A quoted target has one step, its text."""

    steps: tuple[Field | Index | Choice, ...]
    quoted: bool
    span: Span = field(compare=False, repr=False)

    @property
    def text(self) -> str:
        """As the formatter writes it, quotes left out."""
        return "".join(_step_text(step) for step in self.steps).removeprefix(".")

    @property
    def simple(self) -> str | None:
        """The name, if it is one bare name."""
        match self.steps:
            case (Field(name),) if not self.quoted:
                return name
        return None


def _step_text(step: Field | Index | Choice) -> str:
    match step:
        case Field(name):
            return f".{name}"
        case Index(variable):
            return f"[{variable}]"
        case Choice(names):
            return ".{" + ",".join(names) + "}"


@dataclass(frozen=True)
class Setting:
    """`target = value`, `target += value`, or `key | spelling = value else fallback`."""

    targets: tuple[Target, ...]
    add: bool
    value: Expr
    fallback: Expr | None
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = field(default=NO_TRIVIA, compare=False, repr=False)

    @property
    def key(self) -> str:
        """What identifies it among the settings of its block."""
        return self.targets[0].text


@dataclass(frozen=True)
class Block:
    """`kind header { body }`."""

    kind: Name
    header: Name | Number | None
    body: tuple[Statement, ...]
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = field(default=NO_TRIVIA, compare=False, repr=False)
    tail: tuple[str, ...] = field(default=(), compare=False, repr=False)  # comments before the closing brace

    def settings(self) -> tuple[Setting, ...]:
        """Its settings, without nested blocks."""
        return tuple(s for s in self.body if isinstance(s, Setting))

    def find(self, key: str) -> Setting | None:
        """The setting of this name."""
        return next((s for s in self.settings() if s.key == key), None)

    def block(self, kind: str) -> Block | None:
        """The nested block of this kind."""
        return next((s for s in self.body if isinstance(s, Block) and s.kind.text == kind), None)


@dataclass(frozen=True)
class Use:
    """`use name` or `use "path"`."""

    target: str
    quoted: bool
    span: Span = field(compare=False, repr=False)
    trivia: Trivia = field(default=NO_TRIVIA, compare=False, repr=False)


Statement = Setting | Block
Item = Use | Setting | Block


@dataclass(frozen=True)
class File:
    """A whole text."""

    items: tuple[Item, ...]
    span: Span = field(compare=False, repr=False)
    tail: tuple[str, ...] = field(default=(), compare=False, repr=False)  # comments after the last item

    def block(self, kind: str) -> Block | None:
        """The top-level block of this kind."""
        return next((b for b in self.items if isinstance(b, Block) and b.kind.text == kind), None)


def is_number(expr: Expr) -> bool:
    """Whether an expression has the form of a number: a literal, a root, or a product or quotient."""
    return isinstance(expr, Number | Product) or (isinstance(expr, Invoke) and expr.name == "sqrt")


def describe(expr: Expr) -> str:
    """An expression in a few words, for messages."""
    match expr:
        case Number(text=text, word=word):
            return f"`{text} {word}`" if word else f"`{text}`"
        case String(text=text):
            return f'the string "{_short(text)}"'
        case Ref():
            return f"`{_short(expr.text)}`"
        case Invoke(callee=Ref()):
            return f"`{_short(expr.name)}(...)`"
        case Invoke() | Match():
            return "a `match`"
        case ListOf():
            return "a list"
        case TupleOf():
            return "a tuple"
        case Range():
            return "a range"
        case Repeat():
            return "`N of ...`"
        case Pipe():
            return "a pipeline"
        case Sum():
            return "a sum"
        case Product():
            return "a product"


def _short(text: str) -> str:
    return text if len(text) <= 40 else text[:37] + "..."
