"""What the tests of components share: a text for one component, and the ones that others are variants of."""

from __future__ import annotations

from collections.abc import Iterable

from dsl_texts import load
from moec.dsl import spec as m
from moec.dsl.vocabulary import CONSTRUCTS

Cases = dict[tuple[str, str], tuple[str, m.Component]]  # by construct and argument: a text, and what it means

_MODEL = """\
model one {{
    vocab = 320, width = 64, context = 4096
    size = 48, cap = 2.5, factors = [1, 2]
    named = layer_norm(eps: 0.5)
    network = swiglu(96)
    part = {}
    layers 1 {{ x += part(x) }}
    logits = linear(x)
}}
"""

NORM = m.RmsNorm(1e-6)
ROPE = m.Rope(10_000.0)
GQA = m.Gqa(heads=4, kv_heads=4, head_dim=16, value_dim=16, rope=ROPE)
MLA = m.Mla(
    heads=4, q_rank=None, kv_rank=16, nope_dim=8, rope_dim=8, value_dim=12, rope=ROPE, norm=m.RmsNorm(1e-6)
)
SWIGLU = m.Ffn(96)
MOE = m.Moe(experts=8, expert=SWIGLU, router=(m.Softmax(), m.Top(2)))


def component(text: str) -> m.Component:
    """The component that a text of the language is."""
    (layer,) = load(_MODEL.format(text)).model.layers
    (call,) = layer.calls()
    return call.component


def arguments(names: Iterable[str]) -> set[tuple[str, str]]:
    """Every argument of some constructs."""
    return {(name, param.name) for name in names for param in CONSTRUCTS[name].params}
