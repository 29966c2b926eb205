"""Build: `ModelSpec` -> reference graphs, one per distinct kind of region.

The chain, with the statistics that a model with balance losses carries from layer to layer:

    embed:  tokens                                  -> x, (carried statistics, zero)
    layer:  x, carried, batch facts                 -> x, carried, load of every MoE
    head:   x, carried, targets, batch facts        -> objective, loss, aux_loss, z_loss
    logits: x                                       -> logits           (instead of head, to read a model out)

`region.py` names the batch facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from moec.compiler.graph import ReferenceRegion
from moec.dsl.parameters import layer_parameters
from moec.dsl.spec import CorrectionBias, Layer, ModelSpec, Moe, Origin

from .ends import build_embed, build_head, build_logits
from .expressions import assign
from .region import RegionBuilder, Setting, layer_facts
from .region import Shape as Shape
from .statistics import CARRIED_DIFFERENTIABLE, Statistics, statistics_of

Loads = tuple[tuple[str, int], ...]
"""(output name, experts) of the MoEs of a layer."""


@dataclass(frozen=True)
class Correction:
    """After a step, the parameter `path` of a layer follows `load`, by `rate`: see `machine_ops.correct_`."""

    path: str
    load: str
    rate: float
    origin: Origin


@dataclass(frozen=True)
class ReferenceModel:
    """Region kinds, and for every instance in the chain its kind.

    Instances are `embed`, `layers.<i>`, `head`.
    """

    kinds: dict[str, ReferenceRegion]
    chain: tuple[tuple[str, str], ...]
    loads: dict[str, Loads]  # by layer kind
    corrections: dict[str, tuple[Correction, ...]]  # by layer kind
    statistics: Statistics
    shape: Shape

    def corrected(self) -> tuple[tuple[str, Correction], ...]:
        """(instance, correction) of the whole chain."""
        return tuple((at, c) for at, kind in self.chain for c in self.corrections.get(kind, ()))


def build(model: ModelSpec, shape: Shape, head: str = "head") -> ReferenceModel:
    """The reference graphs of a model; `head` is "head" (loss) or "logits"."""
    setting = Setting(model, shape, statistics_of(model), training=head == "head")
    kinds: dict[str, ReferenceRegion] = {"embed": build_embed(setting)}
    loads: dict[str, Loads] = {}
    corrections: dict[str, tuple[Correction, ...]] = {}
    chain = [("embed", "embed")]
    names: dict[Layer, str] = {}
    for index, layer in enumerate(model.layers):
        if layer not in names:
            kind = names[layer] = f"layer_{len(names)}"
            kinds[kind], loads[kind] = _layer(kind, layer, setting)
            corrections[kind] = tuple(_corrections(layer))
        chain.append((f"layers.{index}", names[layer]))
    kinds[head] = {"head": build_head, "logits": build_logits}[head](setting)
    return ReferenceModel(kinds, (*chain, (head, head)), loads, corrections, setting.statistics, shape)


def _layer(kind: str, layer: Layer, setting: Setting) -> tuple[ReferenceRegion, Loads]:
    region = RegionBuilder(kind, layer_parameters(layer, setting.model.width), setting, layer.origin)
    chain = region.chain()
    scope = region.scope(chain, region.facts(*layer_facts(layer, setting.training)))
    for equation in layer.equations:
        assign(equation, scope)
    outputs = {**chain, **{name: node for name, (node, _) in scope.loads.items()}}
    loads = tuple((name, experts) for name, (_, experts) in scope.loads.items())
    return region.finish(outputs, {"x", *(CARRIED_DIFFERENTIABLE & chain.keys())}), loads


def _corrections(layer: Layer) -> Iterator[Correction]:
    """The correction biases that follow the load."""
    for call in layer.calls():
        for stage in call.component.router if isinstance(call.component, Moe) else ():
            if isinstance(stage, CorrectionBias) and stage.update is not None:
                yield Correction(f"{call.path}.correction", f"{call.path}.load", stage.update, stage.origin)
