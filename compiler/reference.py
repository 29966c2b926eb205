"""The meaning of a model, computed: its reference graphs run on one device, differentiated by plain autograd.

Independent of partitioning, of our own differentiation, of programs and executors. `moec verify` and the
tests compare what ranks computed with this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from moec.dsl.parameters import Parameter, model_parameters
from moec.dsl.spec import ModelSpec
from moec.runtime.abi.counter_kernels import noise_key

from .build.model import COUNTED, EARLIER, ReferenceModel, Shape, build
from .graph import run

LOSSES = ("loss", "aux_loss", "sequence_aux_loss", "z_loss")
_COUNTS = (".load", ".dropped")


@dataclass(frozen=True)
class Reference:
    """What a step computes of a batch.

    Losses and `<moe>.entropy` by name, the whole numbers that are `<moe>.load` and `<moe>.dropped`, and
    gradients of all trained parameters.
    """

    losses: dict[str, float]
    loads: dict[str, Tensor]
    gradients: dict[str, Tensor]


def reference_step(
    model: ModelSpec,
    weights: Mapping[str, Tensor],
    tokens: Tensor,
    targets: Tensor,
    micro_batches: int,
    seed: int = 0,
    first: int = 0,
    documents: Tensor | None = None,
) -> Reference:
    """Losses and gradients of one batch, cut into `micro_batches`.

    `weights` are by full name, of one floating dtype, which is computed in. `tokens` and `targets` are
    (sequences, sequence) int64; targets of -100 bear no loss. What is random depends on `seed` and on the
    position of the batch's first sequence in its run, `first`. With `documents`, int64 like tokens, they are
    separate, and it says of every token where in its sequence its document starts.
    """
    trained = {name for region, p in model_parameters(model) if p.trained for name in p.names(region)}
    leaves = {name: tensor.detach().clone() for name, tensor in weights.items()}
    for name in trained:
        leaves[name].requires_grad_()
    facts = {
        "batch_tokens": torch.tensor(tokens.numel()),
        "loss_tokens": (targets != -100).sum(),
    }
    size = -(-tokens.shape[0] // micro_batches)
    losses: dict[str, float] = {}
    loads: dict[str, Tensor] = {}
    counted: dict[str, Tensor] = {}
    parts = zip(torch.split(tokens, size), torch.split(targets, size), strict=True)
    for index, (part, wanted) in enumerate(parts):
        start = facts | {"first": torch.tensor(first + index * size)}
        if documents is not None:
            start["documents"] = documents[index * size : index * size + len(part)]
        start["seen_tokens"] = torch.tensor((index * size + len(part)) * tokens.shape[1])
        values = _forward(model, leaves, part, wanted, start | counted, seed)
        counted = {n.removesuffix(COUNTED) + EARLIER: c for n, c in values.items() if n.endswith(COUNTED)}
        torch.autograd.backward(values.pop("objective"))
        for name, found in values.items():
            if name in LOSSES or name.endswith(".entropy"):
                losses[name] = losses.get(name, 0.0) + found.item()
            elif name.endswith(_COUNTS):
                loads[name] = loads[name] + found if name in loads else found
    gradients = {name: leaf.grad for name, leaf in leaves.items() if name in trained}
    return Reference(
        losses, loads, {n: torch.zeros_like(weights[n]) if g is None else g for n, g in gradients.items()}
    )


def _forward(
    model: ModelSpec,
    leaves: dict[str, Tensor],
    tokens: Tensor,
    targets: Tensor,
    facts: dict[str, Tensor],
    seed: int,
) -> dict[str, Tensor]:
    dtype = next(iter(leaves.values())).dtype
    shape = Shape(tokens.shape[0], tokens.shape[1], dtype, documents="documents" in facts)
    reference = build(model, shape)
    values = {
        "tokens": tokens,
        "targets": targets,
        "sequences": torch.tensor(tokens.shape[0]),
        "micro_tokens": torch.tensor(tokens.numel()),
        **facts,
    }
    return run_chain(reference, leaves, values, seed)


def run_chain(
    reference: ReferenceModel, weights: Mapping[str, Tensor], values: dict[str, Tensor], seed: int = 0
) -> dict[str, Tensor]:
    """Run all regions in order; `seed` is that of what is random in training.

    Returns every value of the chain; what a MoE publishes is under `layers.<i>.<component>.load` and alike.
    """
    values = dict(values)
    for instance, kind in reference.chain:
        region = reference.kinds[kind]
        values["noise"] = torch.tensor(noise_key(seed, instance))
        prefix = instance if instance.startswith("layers.") else ""
        parameters = {p.path: _stored(p, prefix, weights) for p in region.parameters}
        for name, experts in reference.counted.get(kind, ()):
            earlier, none = name.removesuffix(COUNTED) + EARLIER, torch.zeros(experts, dtype=torch.int64)
            values[earlier] = values.get(f"{instance}.{earlier}", none)
        results = run(region, parameters, {name: values[name] for name in region.inputs})
        for name, result in results.items():
            values[f"{instance}.{name}" if name.endswith((*_COUNTS, COUNTED, ".entropy")) else name] = result
    return values


def _stored(parameter: Parameter, prefix: str, weights: Mapping[str, Tensor]) -> Tensor:
    """A parameter as its region takes it: experts stacked."""
    tensors = [weights[name] for name in parameter.names(prefix)]
    return tensors[0] if parameter.experts is None else torch.stack(tensors)
