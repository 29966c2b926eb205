"""A small model of the same kind: every construct of a spec at sizes that a test can run.

`moec verify` compiles it with the same degrees, so what it shows is about the plan and the passes, not about
size. Ratios that change the program are kept (grouped queries, experts by rank, layer kinds); widths are not.
"""

from __future__ import annotations

from dataclasses import replace

from moec.dsl.spec import Call, Equation, Expression, Ffn, Gqa, Layer, ModelSpec, Moe, Spec, TrainSpec

WIDTH = 32
FFN_WIDTH = 24
HEAD_DIM = 8
VOCAB = 96
SEQUENCE = 12
MAX_KV_HEADS = 2
MAX_GROUP = 4
MAX_LAYERS_OF_A_KIND = 2


def small_spec(spec: Spec, ranks: int) -> Spec:
    """`spec` with small sizes and a batch that does not divide by `ranks`, so that some rank gets less."""
    train = spec.train
    sequences = train.micro_batches * (2 * ranks - 1) if ranks > 1 else 2 * train.micro_batches
    return replace(spec, model=small_model(spec.model), train=_small_train(train, sequences))


def small_model(model: ModelSpec) -> ModelSpec:
    """The model at small widths, with at most two layers of every kind."""
    seen: dict[Layer, int] = {}
    layers = []
    for layer in model.layers:
        seen[layer] = seen.get(layer, 0) + 1
        if seen[layer] <= MAX_LAYERS_OF_A_KIND:
            layers.append(replace(layer, equations=tuple(map(_equation, layer.equations))))
    return replace(model, vocab=VOCAB, width=WIDTH, context=SEQUENCE, layers=tuple(layers), init_std=0.1)


def _small_train(train: TrainSpec, sequences: int) -> TrainSpec:
    return replace(train, sequence=SEQUENCE, batch_tokens=sequences * SEQUENCE)


def _equation(equation: Equation) -> Equation:
    return replace(equation, value=_expression(equation.value))


def _expression(expression: Expression) -> Expression:
    if not isinstance(expression, Call):
        return expression
    argument = _expression(expression.argument)
    match expression.component:
        case Gqa() as gqa:
            return replace(expression, component=_gqa(gqa), argument=argument)
        case Ffn() as ffn:
            return replace(expression, component=_ffn(ffn), argument=argument)
        case Moe() as moe:
            return replace(expression, component=_moe(moe), argument=argument)
    return replace(expression, argument=argument)


def _gqa(gqa: Gqa) -> Gqa:
    kv_heads = min(gqa.kv_heads, MAX_KV_HEADS)
    group = min(gqa.heads // gqa.kv_heads, MAX_GROUP)
    window = min(gqa.attend.window, SEQUENCE // 2) if gqa.attend.window else None
    return replace(
        gqa,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_dim=HEAD_DIM,
        value_dim=HEAD_DIM,
        attend=replace(gqa.attend, window=window),
    )


def _ffn(ffn: Ffn) -> Ffn:
    return replace(ffn, width=FFN_WIDTH)


def _moe(moe: Moe) -> Moe:
    shared = moe.shared and replace(moe.shared, ffn=_ffn(moe.shared.ffn))
    return replace(moe, expert=_ffn(moe.expert), shared=shared)
