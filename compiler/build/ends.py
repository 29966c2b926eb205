"""The two ends of a model -> reference regions: the embedding, and the output with or without its losses."""

from __future__ import annotations

from torch import fx

from moec.compiler import model_ops
from moec.compiler.graph import ReferenceRegion, value
from moec.dsl.parameters import Parameter, embed_parameters, head_parameters
from moec.dsl.spec import ModelSpec

from .expressions import evaluate
from .region import RegionBuilder, Setting
from .statistics import CARRIED_DIFFERENTIABLE


def build_embed(setting: Setting) -> ReferenceRegion:
    """tokens -> x = scale * norm(embed(tokens)), and carried statistics, zero."""
    model, embed = setting.model, setting.model.embed
    parameters = embed_parameters(model)
    region = RegionBuilder("embed", parameters, setting, parameters[0].origin)
    tokens, at = region.ids("tokens"), region.origin
    region.builder.component = "embed"
    x = region.builder.call(model_ops.embed, tokens, region.parameter_nodes["embed"], at=at)
    if embed.norm is not None:
        x = evaluate(embed.norm, region.scope({"x": x}, {}))
    if embed.scale != 1.0:
        x = region.builder.call(model_ops.scaled, x, embed.scale, at=at)
    start = setting.statistics.start(region.builder, setting.shape.wide)
    return region.finish({"x": x, **start}, {"x"})


def build_head(setting: Setting) -> ReferenceRegion:
    """x, carried, targets, batch facts -> objective, loss, and the auxiliary losses there are."""
    region = RegionBuilder("head", _output_parameters(setting.model), setting, setting.model.head.origin)
    chain, targets = region.chain(), region.ids("targets")
    statistics = setting.statistics
    seen = ("seen_tokens",) if statistics.over_batch and statistics.pooled else ()
    facts = region.facts("micro_tokens", "batch_tokens", "loss_tokens", *seen)
    with region.builder.within("logits"):
        loss = _loss(region, chain, targets, facts["loss_tokens"])
    outputs = setting.statistics.finish(region.builder, loss, chain, facts, region.origin)
    return region.finish(outputs, {"x", "objective", *(CARRIED_DIFFERENTIABLE & chain.keys())})


def build_logits(setting: Setting) -> ReferenceRegion:
    """x -> logits (T, V), to read a model out."""
    region = RegionBuilder("logits", _output_parameters(setting.model), setting, setting.model.head.origin)
    return region.finish({"logits": _logits(region, region.chain())}, {"x", "logits"})


def _output_parameters(model: ModelSpec) -> tuple[Parameter, ...]:
    """The head's own, and the embedding table if it is the output projection as well."""
    return (*head_parameters(model), *(p for p in embed_parameters(model) if p.tied))


def _loss(region: RegionBuilder, chain: dict[str, fx.Node], targets: fx.Node, tokens: fx.Node) -> fx.Node:
    """This rank's summand of the loss: of all logits, or of those of a chunk of tokens after another."""
    head, at, call = region.setting.model.head, region.origin, region.builder.call
    chunk = region.setting.shape.loss_chunk
    if chunk is None:
        return call(model_ops.cross_entropy, _logits(region, chain), targets, tokens, at=at)
    x, matrix, bias = _projection(region, chain)
    cap = 0.0 if head.softcap is None else head.softcap
    operands = (x, matrix, bias, targets, tokens, head.scale, cap, chunk)
    return call(model_ops.chunked_cross_entropy, *operands, at=at)


def _logits(region: RegionBuilder, chain: dict[str, fx.Node]) -> fx.Node:
    """(T, D) -> (T, V), wide: the product alone is in the dtype of its matrix."""
    head, at, call = region.setting.model.head, region.origin, region.builder.call
    x, matrix, bias = _projection(region, chain)
    product = call(model_ops.linear, x, matrix, *([] if bias is None else [bias]), at=at)
    logits = region.scope(chain, {}).cast(product, region.setting.shape.wide, at)
    if head.scale != 1.0:
        logits = call(model_ops.scaled, logits, head.scale, at=at)
    return logits if head.softcap is None else call(model_ops.softcap, logits, head.softcap, at=at)


def _projection(region: RegionBuilder, chain: dict[str, fx.Node]) -> tuple[fx.Node, fx.Node, fx.Node | None]:
    """What logits are made of: rows (T, D), the matrix (V, D), the bias (V,) in the dtype of the matrix."""
    head, scope = region.setting.model.head, region.scope(chain, {})
    x = evaluate(head.argument, scope)
    matrix = region.parameter_nodes["embed" if head.tied else "logits"]
    if not head.bias:
        return x, matrix, None
    return x, matrix, scope.cast(region.parameter_nodes["logits_bias"], value(matrix).dtype, region.origin)
