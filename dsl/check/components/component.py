"""One component, whichever it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from moec.dsl import spec as m
from moec.dsl import syntax as s
from moec.dsl.check.arguments import Arguments, bind, callee
from moec.dsl.check.components.attention import gqa, mla
from moec.dsl.check.components.ffn import geglu, mlp, swiglu
from moec.dsl.check.components.moe import moe
from moec.dsl.check.components.norms import layer_norm, rms_norm
from moec.dsl.check.components.reading import Context

_BUILDERS: Mapping[str, Callable[[Arguments, Context], m.Component]] = {
    "rms_norm": rms_norm,
    "layer_norm": layer_norm,
    "gqa": gqa,
    "mla": mla,
    "swiglu": swiglu,
    "geglu": geglu,
    "mlp": mlp,
    "moe": moe,
}


def component(expr: s.Expr, context: Context) -> m.Component:
    """The component a call constructs. Raises Mistake where it is none at all; other faults go to the bag."""
    construct, call = callee(expr, ("component",), "a component")
    return _BUILDERS[construct.name](bind(construct, call, context.bag), context)
