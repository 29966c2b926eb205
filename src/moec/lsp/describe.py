"""Entries of the tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from moec.dsl.vocabulary import Construct, Param


def param_text(param: Param) -> str:
    """An argument or a setting: what it takes, its default, what it does."""
    head = f"`{param.name}`: {escaped(param.value)}; {_default(param)}"
    return f"{head}\n\n{escaped(param.meaning)}" if param.meaning else head


def _default(param: Param) -> str:
    if not param.supported:
        return "not supported yet"
    if param.default is None:
        return "required"
    return f"default {param.default}" if param.derived else f"default `{param.default}`"


def construct_text(construct: Construct) -> str:
    """A construct: what it computes, its arguments, who uses it."""
    lines = [f"**{construct.name}** ({construct.role.replace('_', ' ')})"]
    if not construct.supported:
        lines.append("Not supported yet.")
    if construct.meaning:
        lines.append(escaped(construct.meaning))
    if construct.params:
        lines.append(params_table(construct.params))
    if construct.users:
        lines.append(f"Used by {escaped(construct.users)}")
    return "\n\n".join(lines)


def params_table(params: Iterable[Param]) -> str:
    """Arguments or settings as a table."""
    rows = [
        f"| `{p.name}` | {_cell(p.value)} | {_cell(_default(p))} | {_cell(escaped(p.meaning))} |"
        for p in params
        if p.supported
    ]
    return "\n".join(["| argument | value | default | |", "|---|---|---|---|", *rows])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def escaped(text: str) -> str:
    """Text in which `*`, `_` and `<` mean themselves, in Markdown."""
    return "".join(f"\\{char}" if char in "*_<>[]`" else char for char in text)
