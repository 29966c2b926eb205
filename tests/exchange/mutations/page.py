"""The tables of docs/parity.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields

from exchange.families import FAMILIES
from exchange.parity import GRADIENT_TOLERANCE, LOGITS_TOLERANCE, LOSS_TOLERANCE
from moec.dsl import spec as m

from .measure import CLEAR, Row
from .options import construct_name
from .surgery import mixtures_of
from .survivors import REASONS


def tables(rows: Mapping[str, Row]) -> dict[str, str]:
    """Their texts by name; rows by the names of `FAMILIES`."""
    return {"tolerances": _tolerances(), "rows": _rows(rows), "hidden": _hidden(rows)}


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
    return "\n".join(["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), *lines])


def _tolerances() -> str:
    logits, loss = LOGITS_TOLERANCE, LOSS_TOLERANCE
    compared = {
        "every logit": (logits, logits * CLEAR, "the largest one, or of 1 if that is more"),
        "the loss, and the auxiliary loss where transformers has one": (loss, loss * CLEAR, "it"),
        "the gradient of every parameter, by the norm": (GRADIENT_TOLERANCE, None, "its norm"),
    }
    return _table(
        ("what", "equal up to", "a mutation differs by more than"),
        (
            (what, f"{equal:g} of {of}", "" if clear is None else f"{clear:g} of {of}")
            for what, (equal, clear, of) in compared.items()
        ),
    )


def _rows(rows: Mapping[str, Row]) -> str:
    """Row, class of transformers, text, routers, and how many mutations show."""
    return _table(
        ("row", "class of transformers", "text", "routers", "mutations that show"),
        (
            (
                f"`{name}`",
                type(row.wanted.model).__name__,
                f"`{FAMILIES[name].model}`",
                ", ".join(f"`{text}`" for text in _routers(row)),
                f"{sum(row.reason(x) is None for x in row.mutants)} of {len(row.mutants)}",
            )
            for name, row in rows.items()
        ),
    )


def _hidden(rows: Mapping[str, Row]) -> str:
    """Mutations, reason, rows. Every reason is that of some row."""
    found: dict[str, dict[str, None]] = {reason.text: {} for reason in REASONS}
    places: dict[str, dict[str, None]] = {reason.text: {} for reason in REASONS}
    for name, row in rows.items():
        for mutation in row.mutants:
            reason = row.reason(mutation)
            if reason is not None:
                found[reason.text][f"`{mutation}`"] = None
                places[reason.text][f"`{name}`"] = None
    assert all(found.values())
    return _table(
        ("mutation", "hidden because", "in the rows"),
        ((", ".join(sorted(found[text])), text, ", ".join(places[text])) for text in found),
    )


def _routers(row: Row) -> dict[str, None]:
    mixtures = (moe for layer in row.model.layers for _, moe in mixtures_of(layer))
    return dict.fromkeys(" | ".join(map(_stage, moe.router)) for moe in mixtures)


def _stage(stage: m.RouterStage) -> str:
    """As texts write it, defaults left out."""
    given: list[str] = []
    for field in fields(stage):
        value = getattr(stage, field.name)
        if field.default is MISSING:
            given.append(f"{value:g}" if not given else f"{field.name}: {value:g}")
        elif field.name != "origin" and value != field.default:
            given.append(f"{field.name}: {value if isinstance(value, str) else format(value, 'g')}")
    return construct_name(stage) + (f"({', '.join(given)})" if given else "")
