"""Build: `ModelSpec` -> reference graphs, one per distinct kind of region.

The chain, with the statistics that a model with balance losses carries from layer to layer:

    embed:  tokens                                  -> x, (carried statistics, zero)
    layer:  x, carried, batch facts                 -> x, carried, load of every MoE
    head:   x, carried, targets, batch facts        -> objective, loss, aux_loss, z_loss
    logits: x                                       -> logits           (instead of head, to read a model out)

`region.py` names the batch facts.
"""

from __future__ import annotations

from dataclasses import dataclass

from moec.compiler.graph import ReferenceRegion
from moec.dsl.parameters import layer_parameters
from moec.dsl.spec import Layer, ModelSpec

from .ends import build_embed, build_head, build_logits
from .expressions import assign
from .region import RegionBuilder, Setting, layer_facts
from .region import Shape as Shape
from .statistics import CARRIED_DIFFERENTIABLE, Statistics, statistics_of

Loads = tuple[tuple[str, int], ...]
"""(output name, experts) of the MoEs of a layer."""


@dataclass(frozen=True)
class ReferenceModel:
    """Region kinds, and for every instance in the chain its kind.

    Instances are `embed`, `layers.<i>`, `head`.
    """

    kinds: dict[str, ReferenceRegion]
    chain: tuple[tuple[str, str], ...]
    loads: dict[str, Loads]  # by layer kind
    statistics: Statistics
    shape: Shape


def build(model: ModelSpec, shape: Shape, head: str = "head") -> ReferenceModel:
    """The reference graphs of a model; `head` is "head" (loss) or "logits"."""
    setting = Setting(model, shape, statistics_of(model), training=head == "head")
    kinds: dict[str, ReferenceRegion] = {"embed": build_embed(setting)}
    loads: dict[str, Loads] = {}
    chain = [("embed", "embed")]
    names: dict[Layer, str] = {}
    for index, layer in enumerate(model.layers):
        if layer not in names:
            kind = names[layer] = f"layer_{len(names)}"
            kinds[kind], loads[kind] = _layer(kind, layer, setting)
        chain.append((f"layers.{index}", names[layer]))
    kinds[head] = {"head": build_head, "logits": build_logits}[head](setting)
    return ReferenceModel(kinds, (*chain, (head, head)), loads, setting.statistics, shape)


def _layer(kind: str, layer: Layer, setting: Setting) -> tuple[ReferenceRegion, Loads]:
    region = RegionBuilder(kind, layer_parameters(layer, setting.model.width), setting, layer.origin)
    chain = region.chain()
    scope = region.scope(chain, region.facts(*layer_facts(layer, setting.training)))
    for equation in layer.equations:
        assign(equation, scope)
    outputs = {**chain, **{name: node for name, (node, _) in scope.loads.items()}}
    loads = tuple((name, experts) for name, (_, experts) in scope.loads.items())
    return region.finish(outputs, {"x", *(CARRIED_DIFFERENTIABLE & chain.keys())}), loads
