"""How many floating-point operations a model needs: the measure of model FLOPs utilisation.

Chowdhery et al., 2022, appendix B, with the pairs of tokens that attention looks at counted exactly. A
multiplication and an addition are two operations; backward needs twice those of forward. Of a token:

    6 N + 6 sum_l heads_l (d_l + c_l) keys_l

N: elements of the matrices that it is multiplied by, experts as many as it chooses; the embedding, which is
looked up, counts where the output shares it. d_l, c_l: dims of a head's queries and values. keys_l: how many
keys a token sees, the mean over a full sequence. Nothing else counts: norms, softmax, routing, rotation, and
what is computed again to save memory. Documents are taken to be joined, and no choice to be without room.
"""

from __future__ import annotations

from math import prod

from moec.dsl.parameters import model_parameters
from moec.dsl.spec import Attend, Gqa, Mla, ModelSpec


def flops_per_token(model: ModelSpec, sequence: int) -> int:
    """Forward and backward, for one token of a sequence of that many."""
    return 6 * _multiplied(model) + round(6 * _attended(model, sequence) / sequence)


def _multiplied(model: ModelSpec) -> int:
    """Elements of matrices that a token is multiplied by."""
    return sum(
        prod(parameter.shape) * (parameter.active or 1)
        for region, parameter in model_parameters(model)
        if len(parameter.shape) > 1 and (parameter.path != "embed" or region or parameter.tied)
    )


def _attended(model: ModelSpec, sequence: int) -> int:
    """Products of a query's elements with keys and of scores with values, over all pairs of a sequence."""
    components = (call.component for layer in model.layers for call in layer.calls())
    return sum(
        attention.heads * _dims(attention) * pairs(attention.attend, sequence)
        for attention in components
        if isinstance(attention, Gqa | Mla)
    )


def _dims(attention: Gqa | Mla) -> int:
    if isinstance(attention, Gqa):
        return attention.head_dim + attention.value_dim
    return attention.nope_dim + attention.rope_dim + attention.value_dim


def pairs(attend: Attend, sequence: int) -> int:
    """How many keys all tokens of a sequence see together."""
    if attend.chunk is not None:
        whole, rest = divmod(sequence, attend.chunk)
        return whole * _triangle(attend.chunk) + _triangle(rest)
    window = min(attend.window or sequence, sequence)
    return _triangle(window) + (sequence - window) * window


def _triangle(n: int) -> int:
    return n * (n + 1) // 2
