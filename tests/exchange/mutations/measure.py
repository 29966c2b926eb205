"""How far a mutated model is from transformers, with the weights of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from exchange.families import Published
from exchange.parity import logits_apart, losses_apart, shifted
from moec.compiler.build.model import Shape, build
from moec.compiler.graph import ReferenceRegion
from moec.compiler.reference import run_chain
from moec.dsl import spec as m
from moec.dsl.parameters import layer_parameters

from .mixtures import mutations
from .surgery import alone, mixtures_of, regions, run_filled, with_holes, with_mixtures
from .survivors import Reason, reason_for

CLEAR = 10.0
"""So many tolerances and more are no rounding."""

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Row:
    """An imported checkpoint: its `weights` by parameter, and what transformers computes with it."""

    model: m.ModelSpec
    weights: Weights
    wanted: Published

    @cached_property
    def mutants(self) -> Mapping[str, m.ModelSpec]:
        """Models with one option changed in all mixtures that have it, if the checkpoint can fill them."""
        by_name: dict[str, dict[m.Moe, m.Moe]] = {}
        for moe in dict.fromkeys(moe for layer in self.model.layers for _, moe in mixtures_of(layer)):
            for name, other in mutations(moe).items():
                by_name.setdefault(name, {})[moe] = other
        models = {name: with_mixtures(self.model, others) for name, others in by_name.items()}
        return {name: model for name, model in models.items() if _fits(model, self._weights_for(model))}

    def reason(self, mutation: str) -> Reason | None:
        """Why parity does not see a mutation; None if it is to be seen."""
        layers = zip(self.model.layers, self.mutants[mutation].layers, strict=True)
        pairs = chain.from_iterable(zip(mixtures_of(a), mixtures_of(b), strict=True) for a, b in layers)
        return reason_for(mutation, {(old, new) for (_, old), (_, new) in pairs if old != new})

    def apart(self, model: m.ModelSpec) -> float:
        """Logits' distance from those of transformers, in tolerances; where it is small, the losses'.

        Without balance terms the loss follows from the logits.
        """
        weights = self._weights_for(model)
        with torch.inference_mode():
            apart = logits_apart(self._logits(model, weights), self.wanted)
            if apart < CLEAR and (_is_balanced(self.model) or _is_balanced(model)):
                apart = max(apart, losses_apart(model, self._losses(model, weights), self.wanted))
        return apart

    def _weights_for(self, model: m.ModelSpec) -> Weights:
        """The checkpoint's; where the model has fewer experts, what routers have for those that are left."""
        cut = {}
        for i, (mine, others) in enumerate(zip(self.model.layers, model.layers, strict=True)):
            for (path, old), (_, new) in zip(mixtures_of(mine), mixtures_of(others), strict=True):
                left = [*range(new.experts), *range(old.experts, old.experts + new.identity)]
                for name in ("router", "router_bias", "correction", "expert_scale"):
                    full = f"layers.{i}.{path}.{name}"
                    if new.routed < old.routed and full in self.weights:
                        cut[full] = self.weights[full][left]
        return {**self.weights, **cut}

    # --- running ---

    def _logits(self, model: m.ModelSpec, weights: Weights) -> Tensor:
        """(B, S, vocab). Of the model only its mixtures are built; all else is that of the row."""
        embed, *layers, head = self._regions_with_holes
        values = self._facts | run_filled(embed, _parameters(embed, "", weights), self._facts, [])
        for i, (region, layer) in enumerate(zip(layers, model.layers, strict=True)):
            prefix = f"layers.{i}"
            built = [alone(path, moe, model.width, self._shape) for path, moe in mixtures_of(layer)]
            fills = [_Mixture(one, prefix, weights, self._facts) for one in built]
            values |= run_filled(region, _parameters(region, prefix, weights), values, fills)
        logits = run_filled(head, _parameters(head, "", weights), values, [])["logits"]
        return logits.view_as(self.wanted.logits)

    def _losses(self, model: m.ModelSpec, weights: Weights) -> dict[str, float]:
        values = run_chain(build(model, self._shape), weights, self._facts)
        return {name: value.item() for name, value in values.items() if name.endswith("loss")}

    @cached_property
    def _shape(self) -> Shape:
        sequences, sequence = self.wanted.ids.shape
        return Shape(sequences, sequence, torch.float32)

    @cached_property
    def _regions_with_holes(self) -> list[ReferenceRegion]:
        return regions(with_holes(self.model), self._shape)

    @cached_property
    def _facts(self) -> dict[str, Tensor]:
        ids, targets = self.wanted.ids, shifted(self.wanted.ids)
        tokens = torch.tensor(ids.numel())
        return {
            "tokens": ids, "targets": targets, "sequences": torch.tensor(len(ids)), "micro_tokens": tokens,
            "batch_tokens": tokens, "loss_tokens": (targets != -100).sum(), "first": torch.tensor(0),
        }  # fmt: skip


@dataclass(frozen=True)
class _Mixture:
    """A mixture alone, (T, D) -> (T, D)."""

    region: ReferenceRegion
    prefix: str
    weights: Weights
    facts: dict[str, Tensor]

    def __call__(self, x: Tensor) -> Tensor:
        parameters = _parameters(self.region, self.prefix, self.weights)
        return run_filled(self.region, parameters, self.facts | {"x": x}, [])["x"]


def _is_balanced(model: m.ModelSpec) -> bool:
    return any(moe.balance for layer in model.layers for _, moe in mixtures_of(layer))


def _parameters(region: ReferenceRegion, prefix: str, weights: Weights) -> dict[str, Tensor]:
    """What the region takes, by path; experts stacked."""
    found = {p: [weights[name] for name in p.names(prefix)] for p in region.parameters}
    return {p.path: tensors[0] if p.experts is None else torch.stack(tensors) for p, tensors in found.items()}


def _fits(model: m.ModelSpec, weights: Weights) -> bool:
    """Whether `weights` hold all parameters of the layers, in their shapes."""
    return all(
        name in weights and weights[name].shape == parameter.shape
        for i, layer in enumerate(model.layers)
        for parameter in layer_parameters(layer, model.width)
        for name in parameter.names(f"layers.{i}")
    )
