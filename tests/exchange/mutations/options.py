"""What can be changed about one construct of a mixture: for every field, other values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, TypeVar, get_args

from moec.dsl import spec as m

Values = Mapping[str, Any]
"""Other values by what a mutation says of them."""

T = TypeVar("T")


def _said(value: object) -> str:
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _other(*values: Any) -> Callable[[Any], Values]:
    """Those of `values` that the field does not have: its default, which drops it, is among them."""
    return lambda old: {_said(value): value for value in values if value != old}


def _near(old: int) -> Values:
    return {"one more": old + 1} | ({"one less": old - 1} if old > 1 else {})


def _times(*factors: float) -> Callable[[float], Values]:
    return lambda old: {f"times {factor}": factor * old for factor in factors}


def _double_or_half(old: int) -> Values:
    return {"twice": 2 * old} | ({} if old % 2 else {"half": old // 2})


FLAG = _other(False, True)
_LITERALS = {"activation": get_args(m.Activation), "weight": get_args(m.NormWeight)}

CHANGES: Mapping[type, Mapping[str, Callable[[Any], Values]]] = {
    m.Softmax: {},
    m.Sigmoid: {},
    m.SqrtSoftplus: {},
    m.Softcap: {"limit": _times(0.5)},
    m.Scale: {"factor": _times(1.5)},
    m.CorrectionBias: {"update": _other(None, 0.5)},
    m.Groups: {
        "groups": _double_or_half,
        "keep": _near,
        "by": _other("max", "top2_sum"),
        "fill": _other("minus_inf", "zero"),
    },
    m.Sinkhorn: {"iterations": _near},
    m.Jitter: {"eps": _times(0.5)},
    m.Top: {"k": _near},
    m.SparseMixer: {"k": _near, "jitter": _times(5, 0.1)},
    m.Hash: {"k": _near},
    m.RoundRobin: {"k": _near},
    m.Renormalize: {"eps": _other(0.0, 0.1), "minimum": _other(0.0, 4.0), "p": _other(1.0, 2.0)},
    m.ExpertScale: {},
    m.Capacity: {"factor": _times(0.5)},
    m.AuxLoss: {
        "coefficient": _times(10),
        "per": _other("model", "layer"),
        "choices": _other("router", "softmax"),
    },
    m.SequenceAuxLoss: {"coefficient": _times(10)},
    m.ZLoss: {"coefficient": _times(10)},
    m.RmsNorm: {"eps": _times(1000), "weight": _other(*_LITERALS["weight"])},
    m.LayerNorm: {"eps": _times(1000), "weight": _other(*_LITERALS["weight"]), "bias": FLAG},
    m.Ffn: {
        "activation": _other(*_LITERALS["activation"]),
        "gated": FLAG,
        "bias": FLAG,
        "clamp": _other(None, 0.2),
        "clamp_after": _other(None, 0.2),
        "alpha": _other(1.0, 1.3),
        "offset": _other(0.0, 0.5),
    },
    m.SharedExperts: {"gate": FLAG, "average": FLAG},
    m.Moe: {
        "experts": lambda old: {"one less": old - 1},
        "router_bias": FLAG,
        "identity": lambda old: {"0": 0, "one less": old - 1} if old else {},
        "weigh": _other("output", "input"),
    },
}
"""By class and field. A change that no text can say, or that needs tensors which a checkpoint lacks, is left
out later."""

PARTS: Mapping[type, tuple[str, ...]] = {
    m.SharedExperts: ("ffn",),
    m.Moe: ("expert", "shared", "latent_norm", "expert_norm", "router", "balance"),
}
"""Fields that are constructs themselves: they are changed within, or dropped."""

SHAPES: Mapping[type, tuple[str, ...]] = {
    m.Ffn: ("width",),
    m.SharedExperts: ("count",),
    m.Moe: ("latent",),
}
"""Fields that only say how large tensors are. Import compares the sizes with those of the files."""


ONE_BATCH: Mapping[type, tuple[str, ...]] = {m.Capacity: ("pad",), m.AuxLoss: ("over",)}
"""Fields that change nothing in a batch of one micro-batch, as rows have: they are compared elsewhere."""


def construct_name(construct: object) -> str:
    """As texts call it: `CorrectionBias()` -> correction_bias."""
    if isinstance(construct, m.SparseMixer):
        return "sparsemixer"
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(construct).__name__).lower()


def changed_fields(construct: T, name: str) -> Iterator[tuple[str, T]]:
    """(mutation, the construct with one field changed); mutations start with `name`."""
    for field, change in CHANGES[type(construct)].items():
        for said, value in change(getattr(construct, field)).items():
            yield f"{name}.{field}: {said}", replace(construct, **{field: value})  # type: ignore[type-var]


def uncovered() -> list[str]:
    """Fields of mixtures that no mutation changes and no table excuses."""
    return [
        f"{kind.__name__}.{field.name}"
        for kind in (*CHANGES, *get_args(m.RouterStage), *get_args(m.BalanceTerm), *get_args(m.Norm))
        for field in fields(kind)
        if field.name != "origin"
        and field.name not in CHANGES.get(kind, {})
        and field.name not in (*PARTS.get(kind, ()), *SHAPES.get(kind, ()), *ONE_BATCH.get(kind, ()))
    ]
