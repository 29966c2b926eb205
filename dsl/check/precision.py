"""`precision { ... }` -> `PrecisionSpec`: the number formats of a step, and which of them go together."""

from __future__ import annotations

from functools import partial

from moec.dsl import catalogue as c
from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.settings import settings_of
from moec.dsl.check.values import word
from moec.dsl.diagnostics import DiagnosticBag
from moec.dsl.spec import DType

FORMATS: dict[str, tuple[DType, ...]] = {
    "compute": ("fp32", "bf16", "fp64"),
    "params": ("fp32", "fp64"),
    "reduce": ("fp32", "bf16", "fp64"),
    "router": ("fp32", "bf16", "fp64"),
    "optimizer": ("fp32", "bf16", "fp64"),
}
"""Setting -> the formats it can be."""

_LATER = {name: ("fp16", "fp8", *(("bf16",) if name == "params" else ())) for name in FORMATS}


def check_precision(block: s.Block | None, bag: DiagnosticBag) -> m.PrecisionSpec:
    """Number formats of the parts of a step; fp64 is for all of them or for none."""
    found = settings_of(block, "precision", bag)
    default: DType = "fp32"
    compute = found.read("compute", partial(_format, "compute"), default)
    default = "fp64" if compute == "fp64" else default
    formats = {
        name: found.read(name, partial(_format, name), default) for name in FORMATS if name != "compute"
    }
    for name, given in formats.items():
        if (given == "fp64") != (compute == "fp64"):
            label = f"{name} = {given} does not go with compute = {compute}: fp64 is for all or for none"
            bag.add(c.FORMATS_APART.at(found.span(name), label))
    if formats["router"] == "bf16" and compute == "fp32":
        label = "router = bf16 is narrower than compute = fp32, which the router's input is in"
        bag.add(c.FORMATS_APART.at(found.span("router"), label))
    return m.PrecisionSpec(compute=compute, **formats, origin=found.origin())


def _format(name: str, expr: s.Expr) -> DType:
    given = word(expr, name, FORMATS[name], _LATER[name])
    return next(known for known in FORMATS[name] if known == given)
