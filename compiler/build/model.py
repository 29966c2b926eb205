"""Build: `ModelSpec` -> reference graphs, one per distinct kind of region.

The chain, with the statistics that a model with balance losses carries from layer to layer:

    embed:  tokens                                  -> x, (carried statistics, zero)
    layer:  x, carried, batch facts                 -> x, carried, load and entropy of every MoE
    head:   x, carried, targets, batch facts        -> objective, loss, aux_loss, z_loss
    logits: x                                       -> logits           (instead of head, to read a model out)

`region.py` names the batch facts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from moec.compiler.graph import ReferenceRegion
from moec.dsl.parameters import layer_parameters
from moec.dsl.spec import CorrectionBias, Layer, ModelSpec, Moe, Origin

from .ends import build_embed, build_head, build_logits
from .expressions import assign
from .region import RegionBuilder, Setting, counted_over_batch, layer_facts
from .region import Shape as Shape
from .statistics import CARRIED_DIFFERENTIABLE, Statistics, statistics_of

Loads = tuple[tuple[str, int], ...]
"""(output name, how many whole numbers) of the MoEs of a layer: `load`, choices of each expert, and, where
there is a capacity, `dropped`: choices without room, and tokens without a choice that had room."""

COUNTED, EARLIER = ".counted", ".earlier"
"""Endings of an output of a layer, the choices of each expert by the micro-batches of a batch so far, and of
the input that is this of the micro-batch before; only where a loss is of the whole batch."""

Means = tuple[str, ...]
"""Outputs that are summands of a mean over all tokens, () each: `entropy` of the MoEs of a layer."""


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
    counted: dict[str, Loads]  # by layer kind
    means: dict[str, Means]  # by layer kind
    corrections: dict[str, tuple[Correction, ...]]  # by layer kind
    statistics: Statistics
    shape: Shape

    def corrected(self) -> tuple[tuple[str, Correction], ...]:
        """(instance, correction) of the whole chain."""
        return tuple((at, c) for at, kind in self.chain for c in self.corrections.get(kind, ()))


def build(
    model: ModelSpec, shape: Shape, head: Literal["head", "logits"] = "head", training: bool = True
) -> ReferenceModel:
    """The reference graphs of a model; `head` is "head" (loss) or "logits".

    Without `training`, and where there is no loss, nothing is random.
    """
    setting = Setting(model, shape, statistics_of(model), training and head == "head")
    kinds: dict[str, ReferenceRegion] = {"embed": build_embed(setting)}
    loads: dict[str, Loads] = {}
    means: dict[str, Means] = {}
    corrections: dict[str, tuple[Correction, ...]] = {}
    counted: dict[str, Loads] = {}
    chain = [("embed", "embed")]
    names: dict[Layer, str] = {}
    for index, layer in enumerate(model.layers):
        if layer not in names:
            kind = names[layer] = f"layer_{len(names)}"
            kinds[kind], loads[kind], means[kind] = _layer(kind, layer, setting)
            corrections[kind] = tuple(_corrections(layer))
            counted[kind] = tuple((f"{path}{COUNTED}", e) for path, e in counted_over_batch(layer))
        chain.append((f"layers.{index}", names[layer]))
    kinds[head] = {"head": build_head, "logits": build_logits}[head](setting)
    return ReferenceModel(
        kinds, (*chain, (head, head)), loads, counted, means, corrections, setting.statistics, shape
    )


def _layer(kind: str, layer: Layer, setting: Setting) -> tuple[ReferenceRegion, Loads, Means]:
    region = RegionBuilder(kind, layer_parameters(layer, setting.model.width), setting, layer.origin)
    chain = region.chain()
    scope = region.scope(chain, region.facts(*layer_facts(layer, setting.training, setting.shape.documents)))
    for path, experts in counted_over_batch(layer):
        scope.facts[f"{path}.earlier"] = region.input(f"{path}.earlier", (experts,), torch.int64)
    for equation in layer.equations:
        assign(equation, scope)
    shown = {**scope.loads, **scope.counted}
    outputs = {**chain, **{name: node for name, (node, _) in shown.items()}, **scope.means}
    loads = tuple((name, experts) for name, (_, experts) in scope.loads.items())
    return region.finish(outputs, {"x", *(CARRIED_DIFFERENTIABLE & chain.keys())}), loads, tuple(scope.means)


def _corrections(layer: Layer) -> Iterator[Correction]:
    """The correction biases that follow the load."""
    for call in layer.calls():
        for stage in call.component.router if isinstance(call.component, Moe) else ():
            if isinstance(stage, CorrectionBias) and stage.update is not None:
                yield Correction(f"{call.path}.correction", f"{call.path}.load", stage.update, stage.origin)
