"""Where a cursor stands: in which block, call and argument, after what, and what has been typed of a word."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from moec.dsl.source import SourceText
from moec.dsl.tokens import Token
from moec.dsl.vocabulary import BLOCKS, CONSTRUCTS, Construct, Param, find

from .document import Document
from .names import argument
from .tolerant import Element, Group, Outline, end_of, read_open

PATH_KINDS = frozenset(("NAME", "DOT", "LSQB", "RSQB"))


@dataclass(frozen=True)
class Cursor:
    """What stands before the cursor: `part`, the elements of its part of `group`, without the word begun.

    `word` is the beginning of a name that touches the cursor, "" where none does; it starts at `start`.
    """

    group: Group
    part: tuple[Element, ...]
    word: str
    start: int
    in_comment: bool = False
    in_string: bool = False

    @property
    def chain(self) -> Iterator[Group]:
        """The groups it stands in, inner ones first, without the outermost."""
        group: Group | None = self.group
        while group is not None and group.opener is not None:
            yield group
            group = group.parent

    @property
    def blocks(self) -> list[tuple[str, Group]]:
        """The blocks it stands in, outer ones first: (kind, braces)."""
        found = [(block_kind(group), group) for group in self.chain if group.in_braces]
        return [(kind, group) for kind, group in reversed(found) if kind]

    @property
    def block(self) -> str:
        """The kind of the innermost block, "" at the top."""
        return self.blocks[-1][0] if self.blocks else ""

    @property
    def path(self) -> tuple[str, ...]:
        """The kinds of all blocks, outer ones first."""
        return tuple(kind for kind, _ in self.blocks)

    @property
    def last(self) -> Element | None:
        """The element before the word."""
        return self.part[-1] if self.part else None

    @property
    def statement(self) -> tuple[Element, ...]:
        """The statement it stands in, up to the bracket or the word it stands in."""
        group, part = self.group, self.part
        while group.parent is not None and not (group.in_braces and block_kind(group)):
            group, part = group.parent, group.before
        return part

    @property
    def has_binding(self) -> bool:
        """Whether it stands in the value of a statement of the model."""
        return self.path == ("model",) and len(self.statement) > 1

    @property
    def in_equation(self) -> bool:
        """Whether it stands right of the `=` of a layer's equation, or of `logits` or `x` in the model."""
        first = self.statement[0] if self.statement else None
        name = first.text if isinstance(first, Token) else ""
        return self.block == "layers" or (self.block == "model" and name in ("logits", "x"))

    @property
    def in_pattern(self) -> bool:
        """Whether it stands left of the `=>` of an arm, at any depth."""
        group, part = self.group, self.part
        while group.parent is not None and not block_kind(group):
            if is_match(group):
                return not any(isinstance(x, Token) and x.kind == "ARROW" for x in part)
            group, part = group.parent, group.before
        return False

    def after(self, *kinds: str) -> bool:
        """Whether the last token before the word is of one of these kinds."""
        return isinstance(self.last, Token) and self.last.kind in kinds

    @property
    def has_equals(self) -> bool:
        """Whether an `=` stands before it in its part."""
        return any(isinstance(x, Token) and x.kind in ("EQ", "PLUSEQ") for x in self.part)


def is_match(group: Group) -> bool:
    """Whether a group holds the arms of a match."""
    return group.in_braces and any(isinstance(x, Token) and x.kind == "MATCH" for x in group.before[-2:])


def block_kind(group: Group) -> str:
    """`layers` of the braces of `layers N { ... }`; "" of other braces."""
    names = [x for x in group.before if isinstance(x, Token)]
    is_block = len(names) == len(group.before) and 1 <= len(names) <= 2 and names[0].kind == "NAME"
    return names[0].text if is_block else ""


def cursor(document: Document, offset: int) -> Cursor:
    """The place at an offset of a text."""
    text = document.source.text[:offset]
    whole = document.outline
    comment = any(x.span.start < offset <= x.span.end for x in whole.comments)
    string = any(x.kind == "STRING" and x.span.start < offset < x.span.end for x in whole.tokens)
    outline, group = read_open(SourceText(document.name, text))
    word = _word(outline, offset)
    part = list(group.parts[-1])
    if word is not None and part and part[-1] is word:
        part.pop()
    elif word is None and _new_line(outline, group, text):
        part = []
    start = word.span.start if word is not None else offset
    return Cursor(group, tuple(part), word.text if word is not None else "", start, comment, string)


def before_token(document: Document, token: Token) -> Cursor:
    """The place before a token of the text, in the outline of the whole text."""
    waiting = [document.outline.top]
    while waiting:
        group = waiting.pop()
        for part in group.parts:
            for index, element in enumerate(part):
                if element is token:
                    return Cursor(group, tuple(part[:index]), "", token.span.start)
                if isinstance(element, Group) and element.start < token.span.start < end_of(element):
                    waiting.append(element)
    return cursor(document, token.span.start)  # a bracket that closes nothing


def _word(outline: Outline, offset: int) -> Token | None:
    last = outline.tokens[-1] if outline.tokens else None
    is_word = last is not None and last.span.end == offset and last.text.isidentifier()
    return last if is_word else None


def _new_line(outline: Outline, group: Group, text: str) -> bool:
    """Whether the cursor is on a line of its own, and the statement above it is complete."""
    last = outline.tokens[-1] if outline.tokens else None
    if last is None or not group.in_braces:
        return False
    return "\n" in text[last.span.end :] and not goes_on(last)


def goes_on(token: Token) -> bool:
    """Whether a statement cannot end with a token."""
    return token.kind in ("EQ", "PLUSEQ", "PIPE", "PLUS", "STAR", "SLASH", "ARROW", "OF", "ELSE", "DOT")


# --- the argument that a place belongs to ---


@dataclass(frozen=True)
class Slot:
    """An argument of a construct or a setting of a block: what a value is for. `param` is None if unknown.

    `owner`: the construct; None for a setting. `named` are the arguments given so far.
    """

    param: Param | None
    owner: Construct | None
    group: Group | None


def slot(group: Group, part: Sequence[Element]) -> Slot | None:
    """What the value at the end of `part` is for, looking outwards from its group; None for equations."""
    while True:
        construct = callee(group)
        if construct is not None:
            return Slot(_param(construct, group, part), construct, group)
        if group.parent is None:
            return None
        if group.in_braces and block_kind(group):
            return Slot(_setting(block_kind(group), part), None, group)
        group, part = group.parent, (*group.before,)


def callee(group: Group) -> Construct | None:
    """The construct whose arguments stand in a group."""
    last = group.before[-1] if group.before else None
    is_call = group.opener is not None and group.opener.kind == "LPAR" and isinstance(last, Token)
    return CONSTRUCTS.get(last.text) if is_call and isinstance(last, Token) else None


def _param(construct: Construct, group: Group, part: Sequence[Element]) -> Param | None:
    name, _ = argument(part)
    if name is not None:
        return construct.param(name.text)
    first = len(group.parts) == 1 and construct.positional
    return construct.params[0] if first and construct.params else None


def _setting(kind: str, part: Sequence[Element]) -> Param | None:
    match part:
        case [Token(kind="NAME") as name, Token(kind="EQ"), *_] if kind in BLOCKS:
            return find(BLOCKS[kind], name.text)
    return None
