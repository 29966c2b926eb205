"""Filters of the templates: the only ways in which a value becomes text of a script.

A filter returns `Quoted`, and the renderer refuses to write anything else. So no value can reach a script as
it is, whoever forgets a filter.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

WORD = re.compile(r"[A-Za-z0-9_@%+=:,./-]+")
"""What stands for itself in a line of a scheduler, which has quoting rules of its own: no blank, no quote."""


class Quoted(str):
    """Text that may stand in a script as it is."""

    __slots__ = ()


class UnquotableError(ValueError):
    """A value that no filter can write."""


def shell(value: object) -> Quoted:
    """One word of the shell, whatever is in it."""
    text = str(value)
    if "\0" in text:
        raise UnquotableError(f"{text!a}: no script can hold a zero byte")
    return Quoted(shlex.quote(text))


def number(value: object) -> Quoted:
    """A whole number."""
    if type(value) is not int:
        raise UnquotableError(f"{value!r} is no whole number")
    return Quoted(value)


def word(value: object) -> Quoted:
    """A word of a scheduler's line: a name, an amount."""
    text = str(value)
    if not WORD.fullmatch(text):
        raise UnquotableError(f"{text!a} is no name")
    return Quoted(text)


def remark(value: object) -> Quoted:
    """The rest of a line that the shell takes for a comment."""
    text = str(value)
    return Quoted("".join(letter if letter.isprintable() else "?" for letter in text))


def clock(seconds: object) -> Quoted:
    """HH:MM:SS."""
    whole = int(number(seconds))
    return Quoted(f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}")


FILTERS: dict[str, Callable[[object], Quoted]] = {
    "shell": shell,
    "number": number,
    "word": word,
    "remark": remark,
    "clock": clock,
}
