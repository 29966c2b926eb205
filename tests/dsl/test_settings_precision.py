"""The formats of `precision`: which go together, and what follows from what."""

from __future__ import annotations

import itertools

import pytest

from dsl_texts import load
from moec.dsl import catalogue, spec
from moec.dsl.check.precision import FORMATS, check_precision
from moec.dsl.diagnostics import Diagnostic, DiagnosticBag, SourceErrors
from moec.dsl.parse import parse_text
from moec.dsl.source import SourceText
from moec.dsl.spec import DType

SMALL = "use tiny\n"


def _text(**given: str) -> str:
    return SMALL + "precision { " + ", ".join(f"{name} = {value}" for name, value in given.items()) + " }\n"


def test_all_else_follows_compute_into_fp64_and_stays_fp32_beside_bf16() -> None:
    assert load(_text(compute="fp64")).precision == spec.PrecisionSpec(*["fp64"] * 5)
    assert load(_text(compute="bf16")).precision == spec.PrecisionSpec("bf16", *["fp32"] * 4)


@pytest.mark.parametrize("formats", [*itertools.product(*FORMATS.values())], ids="-".join)
def test_formats_go_together_or_the_one_that_does_not_is_named(formats: tuple[DType, ...]) -> None:
    """Of all choices: fp64 is for all or none, and a router in bf16 needs products in bf16."""
    given = dict(zip(FORMATS, formats, strict=True))
    apart = {name for name, value in given.items() if (value == "fp64") != (given["compute"] == "fp64")}
    if given["router"] == "bf16" and given["compute"] == "fp32":
        apart |= {"router"}
    bag = DiagnosticBag()
    file = parse_text(SourceText("small.moe", _text(**given)), bag)
    precision = check_precision(file.block("precision"), bag)
    assert precision == spec.PrecisionSpec(*formats)
    found = reported(bag)
    assert {d.code for d in found} == ({catalogue.FORMATS_APART.code} if apart else set())
    assert [d.label.partition(" = ")[0] for d in found] == [name for name in FORMATS if name in apart]


def reported(bag: DiagnosticBag) -> list[Diagnostic]:
    try:
        bag.raise_if_any()
    except SourceErrors as error:
        return list(error.diagnostics)
    return []
