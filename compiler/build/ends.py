"""The two ends of a model -> reference regions: the embedding, and the output with or without its losses."""

from __future__ import annotations

from torch import fx

from moec.compiler import model_ops
from moec.compiler.graph import ReferenceRegion
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
    x = region.builder.call(model_ops.embed, tokens, region.parameter_nodes["embed"], at=at)
    if embed.norm is not None:
        x = evaluate(embed.norm, region.scope({"x": x}, {}))
    if embed.scale != 1.0:
        x = region.builder.call(model_ops.scaled, x, embed.scale, at=at)
    start = setting.statistics.start(region.builder, setting.shape.dtype)
    return region.finish({"x": x, **start}, {"x"})


def build_head(setting: Setting) -> ReferenceRegion:
    """x, carried, targets, batch facts -> objective, loss, and the auxiliary losses there are."""
    region = RegionBuilder("head", _output_parameters(setting.model), setting, setting.model.head.origin)
    chain, targets = region.chain(), region.ids("targets")
    facts = region.facts("micro_tokens", "batch_tokens", "loss_tokens")
    logits, at = _logits(region, chain), region.origin
    loss = region.builder.call(model_ops.cross_entropy, logits, targets, facts["loss_tokens"], at=at)
    outputs = setting.statistics.finish(region.builder, loss, chain, facts, at)
    return region.finish(outputs, {"x", "objective", *(CARRIED_DIFFERENTIABLE & chain.keys())})


def build_logits(setting: Setting) -> ReferenceRegion:
    """x -> logits (T, V), to read a model out."""
    region = RegionBuilder("logits", _output_parameters(setting.model), setting, setting.model.head.origin)
    return region.finish({"logits": _logits(region, region.chain())}, {"x", "logits"})


def _output_parameters(model: ModelSpec) -> tuple[Parameter, ...]:
    """The head's own, and the embedding table if it is the output projection as well."""
    return (*head_parameters(model), *(p for p in embed_parameters(model) if p.tied))


def _logits(region: RegionBuilder, chain: dict[str, fx.Node]) -> fx.Node:
    """(T, D) -> (T, V)."""
    head, at, call = region.setting.model.head, region.origin, region.builder.call
    x = evaluate(head.argument, region.scope(chain, {}))
    bias = [region.parameter_nodes["logits_bias"]] if head.bias else []
    matrix = region.parameter_nodes["embed" if head.tied else "logits"]
    logits = call(model_ops.linear, x, matrix, *bias, at=at)
    if head.scale != 1.0:
        logits = call(model_ops.scaled, logits, head.scale, at=at)
    return logits if head.softcap is None else call(model_ops.softcap, logits, head.softcap, at=at)
