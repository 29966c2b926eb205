"""No two tensors of a map have one name, and none that is mapped is ignored.

Proved by the skeletons of names, numbers left out: names of different skeletons differ. Names are spelled out
only where skeletons agree and the numbers might.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from moec.dsl import catalogue as c
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.limits import NAMED_IN_MESSAGES
from moec.dsl.source import Span

from .groups import Mapped
from .rules import NUMBER, Rule

_NUMBERS = re.compile(r"(?:[0-9]|\{\})+")  # digits and places of digits


def skeleton(name: str) -> str:
    """A name with one `#` in the place of the numbers and `{}` that stand together."""
    return _NUMBERS.sub(NUMBER, name)


def report_collisions(mapped: Sequence[Mapped], bag: DiagnosticBag) -> None:
    """Two tensors of one name are a mistake; a few are reported, one a rule."""
    told: set[int] = set()
    for rule, first, second, tensor in _collisions(mapped):
        if id(rule) not in told and len(told) < NAMED_IN_MESSAGES:
            told.add(id(rule))
            bag.add(c.TENSOR_TWICE.at(rule.span, f"`{first}` and `{second}` are both `{tensor[:80]}`"))


def _collisions(mapped: Sequence[Mapped]) -> Iterator[tuple[Rule, str, str, str]]:
    alike: dict[str, list[Mapped]] = {}
    for one in mapped:
        alike.setdefault(skeleton(one.group.name), []).append(one)
    for several in alike.values():
        unlike = len(set(map(_numbers, several))) > 1
        yield from _among(several, spelled_out=unlike or any(map(_ambiguous, several)))


def _numbers(one: Mapped) -> tuple[bool, ...]:
    """Of the places of numbers in a name, which ones an expert's number stands at."""
    return tuple("{" in found for found in _NUMBERS.findall(one.group.name))


def _ambiguous(one: Mapped) -> bool:
    """Whether the name does not tell experts apart for sure: `{}` beside a digit, or none at all."""
    group = one.group
    if group.experts is None or group.over_experts is not None:
        return False
    found = [text for text in _NUMBERS.findall(group.name) if "{" in text]
    return not found or any(text != "{}" for text in found)


def _among(several: Iterable[Mapped], spelled_out: bool) -> Iterator[tuple[Rule, str, str, str]]:
    """Among tensors of one skeleton; where all have their experts' numbers at the same places, their names
    collide only if they are the same before the numbers are put in, and some number is one of both."""
    owners: dict[str, list[_Named]] = {}
    for one in several:
        for named in _names(one, spelled_out):
            known = owners.setdefault(named.name, [])
            other = next((other for other in known if other.shares(named)), None)
            if other is None:
                known.append(named)
            elif other.parameter != named.parameter:
                yield one.rule, *other.clash(named)


@dataclass(frozen=True)
class _Named:
    """Tensors of one name, `{}` in it standing for each of some numbers, and their first parameter."""

    name: str
    parameter: str
    numbers: range = range(1)

    def shares(self, other: _Named) -> bool:
        """Whether some number is one of both."""
        return max(self.numbers.start, other.numbers.start) < min(self.numbers.stop, other.numbers.stop)

    def clash(self, other: _Named) -> tuple[str, str, str]:
        """The two parameters, and the name of their tensor, for the first number of both."""
        number = str(max(self.numbers.start, other.numbers.start))
        return (
            self.parameter.replace("{}", number),
            other.parameter.replace("{}", number),
            self.name.replace("{}", number),
        )


def _names(one: Mapped, spelled_out: bool) -> Iterator[_Named]:
    group = one.group
    if spelled_out:
        yield from (_Named(tensor.name, tensor.parameters[0]) for tensor in group.tensors())
    elif group.experts is None or group.over_experts is not None:
        yield _Named(group.name, group.parameters[0].replace("{}", "0"))
    else:
        yield _Named(group.name, group.parameters[0], range(group.first, group.first + group.experts))


def report_ignored(mapped: Sequence[Mapped], ignored: Sequence[str], place: Span, bag: DiagnosticBag) -> None:
    """A tensor that is mapped and matches a pattern of `ignore` is a mistake."""
    patterns = [(text, _pattern(text)) for text in ignored]
    for one in mapped:
        alike = [pattern for text, pattern in patterns if _may_match(text, one.group.name)]
        for pattern in alike:
            clash = next((x for x in one.group.tensors() if pattern.fullmatch(x.name)), None)
            if clash is not None:
                label = f"`{clash.name[:80]}` belongs to `{clash.parameters[0]}`"
                bag.add(c.MAPPED_AND_IGNORED.at(place, label))
                return


def _pattern(text: str) -> re.Pattern[str]:
    """As readers of files have it: `{}` takes all digits that stand there, `*` at the end any rest."""
    known = "[0-9]++".join(map(re.escape, text.removesuffix("*").split("{}")))
    return re.compile(f"{known}.*" if text.endswith("*") else known, re.DOTALL)


def _may_match(text: str, name: str) -> bool:
    """False only if a pattern matches none of the names that the name of a group stands for."""
    one, other = (whole.removesuffix("*").partition("{}")[0] for whole in (text, name))
    if not (one.startswith(other) or other.startswith(one)):
        return False
    if text.endswith("*"):
        return skeleton(name).startswith(skeleton(text.removesuffix("*")))
    return skeleton(name) == skeleton(text)
