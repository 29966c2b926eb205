"""Tokens -> statements and brackets, for texts that are being typed.

Unlike the parser this knows no grammar and never fails. Brackets that are never closed end where the next
statement or block plainly begins: a `(` cannot hold a `=`, and a line that starts in the first column with
the head of a block starts that block.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.source import SourceText
from moec.dsl.tokens import GOES_ON_AFTER, GOES_ON_BEFORE, Comment, Token, tokenize
from moec.dsl.vocabulary import TOP_LEVEL

_CLOSED_BY = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}
_OPENED_BY = {closer: opener for opener, closer in _CLOSED_BY.items()}


@dataclass
class Group:
    """What stands between two brackets, in parts separated by commas or, in braces, by ends of lines.

    `before` is what precedes the opening bracket in its part; the outermost group has no brackets.
    """

    opener: Token | None
    before: tuple[Element, ...]
    parent: Group | None
    parts: list[list[Element]] = field(default_factory=lambda: [[]])
    closer: Token | None = None

    @property
    def in_braces(self) -> bool:
        """Whether it holds statements: braces, and the text itself."""
        return self.opener is None or self.opener.kind == "LBRACE"

    @property
    def start(self) -> int:
        """The offset of its opening bracket."""
        return self.opener.span.start if self.opener else 0

    def holds(self, offset: int) -> bool:
        """Whether an offset lies between the brackets."""
        return self.opener is None or (
            self.opener.span.end <= offset and (self.closer is None or offset <= self.closer.span.start)
        )


Element = Token | Group


@dataclass(frozen=True)
class Outline:
    """A text in tokens, and the same as nested groups."""

    tokens: tuple[Token, ...]
    comments: tuple[Comment, ...]
    top: Group


def read(source: SourceText) -> Outline:
    """Any text."""
    return read_open(source)[0]


def read_open(source: SourceText) -> tuple[Outline, Group]:
    """A text, and the group that is still open at its end."""
    found = tokenize(source, DiagnosticBag())
    tokens = tuple(token for token in found.tokens if token.text != "\n")
    builder = _Builder()
    for index in range(len(tokens)):
        builder.take(tokens, index)
    return Outline(tokens, found.comments, builder.top), builder.group


class _Builder:
    def __init__(self) -> None:
        self.top = Group(None, (), None)
        self.group = self.top

    def take(self, tokens: Sequence[Token], index: int) -> None:
        token = tokens[index]
        self._recover(tokens, index)
        if self._starts_part(tokens, index):
            self.group.parts.append([])
        if token.kind in _CLOSED_BY:
            inner = Group(token, tuple(self._part), self.group)
            self._part.append(inner)
            self.group = inner
        elif token.kind in _OPENED_BY:
            self._close(token)
        elif token.text == ",":
            self.group.parts.append([])
        else:
            self._part.append(token)

    @property
    def _part(self) -> list[Element]:
        return self.group.parts[-1]

    def _starts_part(self, tokens: Sequence[Token], index: int) -> bool:
        """Whether an end of line before a token separates statements, or arguments whose comma is missing."""
        if not self._part or index == 0 or not _first_of_line(tokens, index):
            return False
        before, token = tokens[index - 1], tokens[index]
        if not self.group.in_braces:
            return [x.kind for x in tokens[index : index + 2]] == ["NAME", "COLON"]
        return (
            before.kind not in GOES_ON_AFTER
            and token.kind not in GOES_ON_BEFORE
            and token.kind not in _OPENED_BY
        )

    def _close(self, token: Token) -> None:
        """Close the innermost group that the bracket fits; a bracket that fits none is left out."""
        wanted = _OPENED_BY[token.kind]
        group: Group | None = self.group
        while group is not None and group.opener is not None and group.opener.kind != wanted:
            group = group.parent if wanted == "LBRACE" or not group.in_braces else None
        if group is not None and group.opener is not None and group.parent is not None:
            group.closer = token
            self.group = group.parent

    # --- brackets that were never closed ---

    def _recover(self, tokens: Sequence[Token], index: int) -> None:
        token = tokens[index]
        if _starts_block(tokens, index) or (token.kind == "USE" and token.span.column == 1):
            self._leave(self.top)
        elif token.kind in ("EQ", "PLUSEQ") and not self.group.in_braces:
            self._move_line(tokens, index)
        elif token.text == "layers" and _opens(tokens, index) and _first_of_line(tokens, index):
            self._leave(self._braces())

    def _braces(self) -> Group:
        group = self.group
        while not group.in_braces and group.parent is not None:
            group = group.parent
        return group

    def _leave(self, group: Group) -> None:
        if self.group is not group:
            self.group = group
            group.parts.append([])

    def _move_line(self, tokens: Sequence[Token], index: int) -> None:
        """What stands before a `=` on its line was the start of a statement, not part of the bracket."""
        line = tokens[index].span.line
        start = index
        while start and tokens[start - 1].span.line == line:
            start -= 1
        begun = tokens[start].span.start
        group = self._braces()
        inner: Group | None = self.group
        if any(x.opener is not None and x.opener.span.start >= begun for x in _between(inner, group)):
            return  # the bracket was opened on this very line
        part = self._part
        kept = [element for element in part if start_of(element) < begun]
        moved = part[len(kept) :]
        part[:] = kept
        self._leave(group)
        self._part.extend(moved)


def _between(inner: Group | None, outer: Group) -> Iterator[Group]:
    while inner is not None and inner is not outer:
        yield inner
        inner = inner.parent


def start_of(element: Element) -> int:
    """The offset of an element."""
    return element.start if isinstance(element, Group) else element.span.start


def _starts_block(tokens: Sequence[Token], index: int) -> bool:
    token = tokens[index]
    return token.text in TOP_LEVEL and token.span.column == 1 and _opens(tokens, index)


def _opens(tokens: Sequence[Token], index: int) -> bool:
    """Whether `{` follows a name, with at most a name or a number between them."""
    kinds = [token.kind for token in tokens[index + 1 : index + 3]]
    return kinds[:1] == ["LBRACE"] or kinds in (["NAME", "LBRACE"], ["NUMBER", "LBRACE"])


def _first_of_line(tokens: Sequence[Token], index: int) -> bool:
    return index == 0 or tokens[index - 1].span.last_line < tokens[index].span.line


# --- reading the outline ---


@dataclass(frozen=True)
class Statement:
    """A part of braces. `equals` is the index of its `=` or `+=`, None where there is none."""

    elements: tuple[Element, ...]
    equals: int | None

    @property
    def target(self) -> tuple[Element, ...]:
        """What stands left of the `=`; all of it where there is none."""
        return self.elements[: self.equals] if self.equals is not None else self.elements

    @property
    def value(self) -> tuple[Element, ...]:
        """What stands right of the `=`."""
        return self.elements[self.equals + 1 :] if self.equals is not None else ()

    @property
    def name(self) -> Token | None:
        """The one bare name on the left, if it is one."""
        match self.target:
            case (Token(kind="NAME") as name,):
                return name
        return None

    @property
    def block(self) -> Group | None:
        """The braces of a block `kind header { ... }`; None where it is none."""
        match self.elements:
            case (Token(kind="NAME"), Group() as group) | (Token(kind="NAME"), Token(), Group() as group):
                return group if group.in_braces else None
        return None

    @property
    def kind(self) -> str:
        """The kind of block."""
        first = self.elements[0]
        return first.text if isinstance(first, Token) else ""

    @property
    def header(self) -> Token | None:
        """The name or number between kind and braces."""
        second = self.elements[1] if len(self.elements) == 3 else None
        return second if isinstance(second, Token) else None


def statements(group: Group) -> Iterator[Statement]:
    """The parts of braces, empty ones left out."""
    for part in group.parts:
        if part:
            equals = (i for i, x in enumerate(part) if isinstance(x, Token) and x.kind in ("EQ", "PLUSEQ"))
            yield Statement(tuple(part), next(equals, None))


def end_of(element: Element) -> int:
    """The offset behind an element; behind the last token of a group that is never closed."""
    if isinstance(element, Token):
        return element.span.end
    if element.closer is not None:
        return element.closer.span.end
    last = next((part[-1] for part in reversed(element.parts) if part), None)
    return end_of(last) if last is not None else element.start + 1


def groups(elements: Sequence[Element]) -> Iterator[Group]:
    """The groups among some elements, and those inside of them, outer ones first."""
    for element in elements:
        if isinstance(element, Group):
            yield element
            for part in element.parts:
                yield from groups(part)
