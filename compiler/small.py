"""A small model of the same kind: every construct of a spec at sizes that a test can run.

`moec verify` compiles it with the same degrees, so what it shows is about the plan and the passes, not about
size. Choices and ratios that change the program are kept (grouped queries, rotated parts of a head, experts
by rank, layer kinds, which side of a length a sequence is on); widths are not.
"""

from __future__ import annotations

from dataclasses import replace

from moec.dsl.components import component_names
from moec.dsl.spec import (
    Attend,
    Call,
    DynamicNtk,
    Equation,
    Expression,
    Ffn,
    Gqa,
    Layer,
    LayerNorm,
    LongRope,
    MemorySpec,
    Mla,
    ModelSpec,
    Moe,
    RecomputeAuto,
    RecomputeNames,
    RmsNorm,
    Rope,
    RopeScaling,
    Scaled,
    SharedExperts,
    Spec,
    Sum,
    TrainSpec,
    Var,
)

WIDTH = 32
VOCAB = 96
SEQUENCE = 12
CONTEXT = 2 * SEQUENCE
MAX_LAYERS_OF_A_KIND = 2
LOSS_CHUNK = 5  # tokens, which do not divide those of a sequence

HEAD_DIM, OTHER_VALUE_DIM = 8, 6
MAX_KV_HEADS, MAX_GROUP = 2, 4
MLA_HEADS, Q_RANK, KV_RANK = 4, 12, 10
NOPE_DIM, ROPE_DIM, OTHER_MLA_VALUE_DIM = 6, 4, 5
WINDOW, CHUNK, PERIOD = SEQUENCE // 2, 5, 4  # shorter than a sequence; a chunk does not divide it

FFN_WIDTH = 24
LATENT = 16
MANY_EXPERTS = 64
WIDTH_OF_MANY = 8


def small_spec(spec: Spec, ranks: int) -> Spec:
    """`spec` with small sizes and a batch that does not divide by `ranks`, so that some rank gets less."""
    train = spec.train
    sequences = train.micro_batches * (2 * ranks - 1) if ranks > 1 else 2 * train.micro_batches
    model = small_model(spec.model, train.sequence)
    memory = _small_memory(spec.memory, model)
    return replace(spec, model=model, train=_small_train(train, sequences), memory=memory)


def small_model(model: ModelSpec, sequence: int) -> ModelSpec:
    """The model at small widths, with at most two layers of every kind, for sequences of `SEQUENCE` tokens.

    `sequence` is how long those of the large one are.
    """
    seen: dict[Layer, int] = {}
    layers = []
    for layer in model.layers:
        seen[layer] = seen.get(layer, 0) + 1
        if seen[layer] <= MAX_LAYERS_OF_A_KIND:
            equations = tuple(_equation(equation, sequence) for equation in layer.equations)
            layers.append(replace(layer, equations=equations))
    return replace(model, vocab=VOCAB, width=WIDTH, context=CONTEXT, layers=tuple(layers), init_std=0.1)


def _small_train(train: TrainSpec, sequences: int) -> TrainSpec:
    return replace(train, sequence=SEQUENCE, batch_tokens=sequences * SEQUENCE)


def _small_memory(memory: MemorySpec, model: ModelSpec) -> MemorySpec:
    """What the large model does about memory, where small values do not make it nothing.

    A budget says nothing about a small model: every component is made again, as a smaller one might.
    """
    recompute, offload = memory.recompute, memory.offload
    if isinstance(recompute, RecomputeAuto):
        recompute = RecomputeNames(component_names(model), recompute.origin)
    if offload is not None:
        offload = replace(offload, horizon=1, least_bytes=0)
    chunk = None if memory.loss_chunk is None else LOSS_CHUNK
    return replace(memory, recompute=recompute, offload=offload, loss_chunk=chunk)


def _equation(equation: Equation, sequence: int) -> Equation:
    return replace(equation, value=_expression(equation.value, sequence))


def _expression(expression: Expression, sequence: int) -> Expression:
    match expression:
        case Var():
            return expression
        case Sum(terms):
            return replace(expression, terms=tuple(_expression(term, sequence) for term in terms))
        case Scaled(value=value):
            return replace(expression, value=_expression(value, sequence))
        case Call(argument=argument):
            return _call(replace(expression, argument=_expression(argument, sequence)), sequence)


def _call(call: Call, sequence: int) -> Call:
    match call.component:
        case Gqa() as gqa:
            return replace(call, component=_gqa(gqa, sequence))
        case Mla() as mla:
            return replace(call, component=_mla(mla, sequence))
        case Ffn() as ffn:
            return replace(call, component=replace(ffn, width=FFN_WIDTH))
        case Moe() as moe:
            return replace(call, component=_moe(moe))
        case RmsNorm() | LayerNorm():
            return call


# --- attention ---


def _gqa(gqa: Gqa, sequence: int) -> Gqa:
    kv_heads = min(gqa.kv_heads, MAX_KV_HEADS)
    return replace(
        gqa,
        heads=kv_heads * min(gqa.heads // gqa.kv_heads, MAX_GROUP),
        kv_heads=kv_heads,
        head_dim=HEAD_DIM,
        value_dim=HEAD_DIM if gqa.value_dim == gqa.head_dim else OTHER_VALUE_DIM,
        rope=_rope(gqa.rope, gqa.head_dim, HEAD_DIM, sequence),
        attend=_attend(gqa.attend),
    )


def _mla(mla: Mla, sequence: int) -> Mla:
    same = {mla.nope_dim: NOPE_DIM, mla.nope_dim + mla.rope_dim: NOPE_DIM + ROPE_DIM}
    return replace(
        mla,
        heads=min(mla.heads, MLA_HEADS),
        q_rank=None if mla.q_rank is None else Q_RANK,
        kv_rank=KV_RANK,
        nope_dim=NOPE_DIM,
        rope_dim=ROPE_DIM,
        value_dim=same.get(mla.value_dim, OTHER_MLA_VALUE_DIM),
        rope=_rope(mla.rope, mla.rope_dim, ROPE_DIM, sequence),
        attend=_attend(mla.attend),
    )


def _rope(rope: Rope | None, whole: int, small: int, sequence: int) -> Rope | None:
    """Of a head of `small` dims instead of `whole`: part of it where it was a part."""
    if rope is None:
        return None
    dims, rotated = None, small
    if rope.dims is not None:
        fit = small * rope.dims // whole // 2 * 2
        dims = rotated = min(max(fit, 2), small if rope.dims == whole else small - 2)
    return replace(rope, dims=dims, scaling=_scaling(rope.scaling, rotated // 2, sequence))


def _scaling(scaling: RopeScaling | None, pairs: int, sequence: int) -> RopeScaling | None:
    """What depends on the length of a sequence finds itself on the same side of `original` as before."""
    match scaling:
        case DynamicNtk(original=original):
            return replace(scaling, original=_original(original, sequence))
        case LongRope(short, long, original):
            short, long = (_spread(factors, pairs) for factors in (short, long))
            return replace(scaling, short=short, long=long, original=_original(original, sequence))
        case _:
            return scaling


def _original(original: int, sequence: int) -> int:
    return SEQUENCE // 2 if sequence > original else SEQUENCE


def _spread(factors: tuple[float, ...], count: int) -> tuple[float, ...]:
    """`count` of them, first to last."""
    return tuple(factors[i * len(factors) // count] for i in range(count))


def _attend(attend: Attend) -> Attend:
    return replace(
        attend,
        window=_at_most(attend.window, WINDOW),
        chunk=_at_most(attend.chunk, CHUNK),
        temperature=attend.temperature
        and replace(attend.temperature, period=min(attend.temperature.period, PERIOD)),
    )


def _at_most(count: int | None, limit: int) -> int | None:
    return None if count is None else min(count, limit)


# --- experts ---


def _moe(moe: Moe) -> Moe:
    """As many experts and choices as before."""
    width = FFN_WIDTH if moe.experts <= MANY_EXPERTS else WIDTH_OF_MANY
    return replace(
        moe,
        expert=replace(moe.expert, width=width),
        shared=moe.shared and _shared(moe.shared),
        latent=None if moe.latent is None else LATENT,
    )


def _shared(shared: SharedExperts) -> SharedExperts:
    width = shared.count * (FFN_WIDTH // min(shared.count, FFN_WIDTH))
    return replace(shared, ffn=replace(shared.ffn, width=width))
