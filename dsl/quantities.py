"""Numbers and their units, exactly: `32_000`, `1e6`, `80GiB`, `450GB/s`, `4M tokens`.

A prefix is decimal (`K M G T P`) or binary (`Ki Mi Gi Ti Pi`). For counts of tokens the bare prefixes are
binary too, as everyone means them: a batch of 4M tokens is 4 * 2^20 = 1024 sequences of 4096.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from moec.dsl.limits import NUMBER_EXPONENT, NUMBER_LENGTH

_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40, "Pi": 1 << 50}
_TOKENS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40, "P": 1 << 50, **_BINARY}
_UNITS = ("", "B", "B/s")

_SHAPE = re.compile(r"(-?[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?)([A-Za-z_][A-Za-z0-9_/]*)?")


class BadNumber(ValueError):  # noqa: N818
    """A literal that is no number of the language; the message says why, in a user's words."""


@dataclass(frozen=True)
class Quantity:
    """An exact value with the prefix left to apply, since a count of tokens reads it in its own way."""

    mantissa: Fraction
    prefix: str
    unit: str  # "", "B" or "B/s"

    @property
    def value(self) -> Fraction:
        """The value with its prefix in the ordinary meaning."""
        return self.mantissa * {**_DECIMAL, **_BINARY}[self.prefix]

    @property
    def tokens(self) -> Fraction:
        """The value as a count of tokens."""
        return self.mantissa * _TOKENS[self.prefix]


def parse_quantity(text: str) -> Quantity:
    """Read a literal. Raises BadNumber; never builds a number larger than the limits."""
    shape = _SHAPE.fullmatch(text)
    if shape is None:
        raise BadNumber("this is no number")
    digits, suffix = shape[1], shape[2] or ""
    if len(digits) > NUMBER_LENGTH:
        raise BadNumber(f"a number has at most {NUMBER_LENGTH} characters")
    if digits.endswith("_") or "__" in digits or "_." in digits:
        raise BadNumber("`_` stands between two digits")
    prefix, unit = _split_suffix(suffix)
    return Quantity(_mantissa(digits), prefix, unit)


def _mantissa(digits: str) -> Fraction:
    exponent = re.search(r"[eE]([+-]?[0-9]+)$", digits)
    if exponent and abs(int(exponent[1])) > NUMBER_EXPONENT:
        raise BadNumber(f"an exponent lies within -{NUMBER_EXPONENT}..{NUMBER_EXPONENT}")
    return Fraction(Decimal(digits.replace("_", "")))


def _split_suffix(suffix: str) -> tuple[str, str]:
    for prefix in (*_BINARY, *_DECIMAL):
        rest = suffix[len(prefix) :]
        if suffix.startswith(prefix) and rest in _UNITS:
            return prefix, rest
    raise BadNumber(
        f"unknown unit `{suffix[:20]}`; units are K M G T P, Ki Mi Gi Ti Pi, alone or before B or B/s"
    )


def format_number(value: Fraction) -> str:
    """A number as the language writes it: whole ones grouped by `_`, others as the shortest decimal."""
    if value.denominator == 1:
        return group(int(value))
    return repr(float(value))


def group(number: int) -> str:
    """Digits grouped by three from 10_000 up, as the shipped models write them."""
    return f"{number:_}" if abs(number) >= 10_000 else str(number)
