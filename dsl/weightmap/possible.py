"""Which parameters a model could have with other settings: a rule for any other is a misspelling."""

from __future__ import annotations

from collections.abc import Mapping

from moec.dsl import catalogue as c
from moec.dsl import syntax as s
from moec.dsl.diagnostics import DiagnosticBag, closest
from moec.dsl.limits import DIAGNOSTICS_SHOWN

from .rules import NUMBER, Rule, left_side


def _with_bias(*names: str) -> tuple[str, ...]:
    return tuple(name + suffix for name in names for suffix in ("", "_bias"))


_ATTEND = ("sinks", *_with_bias("gate"))
_FFN = _with_bias("gate", "up", "down")
_MOE = (
    *_with_bias("router", "latent_norm", "expert_norm"),
    "correction",
    "expert_scale",
    "latent_down",
    "latent_up",
    *(f"expert.{NUMBER}.{name}" for name in _FFN),
    *(f"identity.{NUMBER}.{name}" for name in _FFN),  # see blanks.py
    *(f"shared.{name}" for name in _FFN),
    "shared_gate",
)
_GQA = (*_with_bias("q", "k", "v", "o", "q_norm", "k_norm"), *_ATTEND)
_MLA = (*_with_bias("q_down", "kv_down", "o", "q_norm", "kv_norm"), "q", "q_up", "kv_up", *_ATTEND)
_INSIDE = {"gqa": _GQA, "mla": _MLA, "swiglu": _FFN, "geglu": _FFN, "mlp": _FFN, "moe": _MOE}
_NORMS = ("rms_norm", "layer_norm")


def possible_shapes(model: s.Block) -> set[str]:
    """Shapes of all names a parameter of these bindings can have, whichever of them the layers use."""
    bound = {setting.key: setting.value for setting in model.settings()}
    kinds = {name: _kinds(name, bound) for name in bound}
    norms = [name for name, found in kinds.items() if found & {*_NORMS}]
    inner = _with_bias(*norms)
    for name, found in kinds.items():
        for kind in found & _INSIDE.keys():
            inner += tuple(f"{name}.{parameter}" for parameter in _INSIDE[kind])
            inner += _with_bias(*(f"{name}.{before}{norm}" for norm in norms for before in ("", "post_")))
    ends = ("embed", "logits", "logits_bias", *_with_bias(*(f"embed_{norm}" for norm in norms)))
    return {*ends, *inner, *(f"layers.{NUMBER}.{name}" for name in inner)}


def _kinds(name: str, bound: Mapping[str, s.Expr]) -> set[str]:
    """The constructs that a binding can be: those of all arms, other bindings followed."""
    found: set[str] = set()
    to_do: list[s.Expr] = [bound[name]]
    while to_do:
        match to_do.pop():
            case s.Invoke(callee=s.Match() as match) | (s.Match() as match):
                to_do += [arm.value for arm in match.arms]
            case s.Invoke(callee=s.Ref(names=(name,))) | s.Ref(names=(name,)) if name not in found:
                found.add(name)
                to_do += [bound[name]] if name in bound else []
    return found


def report_impossible(rules: Mapping[str, tuple[Rule, int]], possible: set[str], bag: DiagnosticBag) -> None:
    """A rule whose left side no setting can make match is a misspelling."""
    names = sorted(map(left_side, possible))
    impossible = [(shape, rule) for shape, (rule, _) in rules.items() if shape not in possible]
    for shape, rule in impossible[:DIAGNOSTICS_SHOWN]:
        left = left_side(shape)
        label = f"the model can have no parameter `{left}`"
        bag.add(c.NO_SUCH_PARAMETER.at(rule.span, label, advice=closest(left, names)))
