"""A small checkpoint with random weights, and what transformers computes with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from torch import Tensor

from moec import dsl, models
from moec.cli.exchange.import_hf import import_checkpoint
from moec.compiler.build.statistics import statistics_of
from moec.dsl.spec import ModelSpec, Spec

from .family import SEQUENCE, SEQUENCES, VOCAB
from .table import FAMILIES


@dataclass(frozen=True)
class Published:
    """A checkpoint, and what its model makes of `ids` (B, S): logits (B, S, vocab), losses, gradients.

    `gradients` is a checkpoint like the first, with gradients in the place of weights. `aux_loss` is None
    where transformers has none.
    """

    directory: Path
    model: transformers.PreTrainedModel
    ids: Tensor
    logits: Tensor
    loss: float
    aux_loss: float | None
    gradients: Path


def make_model(name: str, dtype: torch.dtype = torch.float32) -> transformers.PreTrainedModel:
    """A model whose every stored tensor is random, norms and biases included: none is hidden by its start.

    But what LongCat-Flash holds for experts that have no parameters is zero.
    """
    model = FAMILIES[name].build()
    model.train(False)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for stored_name, tensor in _stored(model):
            tensor.copy_(_drawn(stored_name, tensor.shape, random))
            assert tensor.count_nonzero(), stored_name
        for module in model.modules():
            if hasattr(module, "gate_up_proj") and hasattr(module, "down_proj"):
                module.gate_up_proj[len(module.down_proj) :] = 0  # of identity experts: nothing reads it
    model.to(dtype)  # type: ignore[arg-type]
    return model


def _stored(model: transformers.PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    """Parameters and the buffers that are saved, each once."""
    yield from model.named_parameters()
    saved = model.state_dict().keys()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in saved)


def _drawn(name: str, shape: torch.Size, random: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=random)
    if "correction_bias" in name or name.endswith("expert_bias"):
        return 0.3 * normal - 0.4  # mostly below zero: to fill with 0 is not to fill with -inf
    if "bias" in name or "sinks" in name:
        return 0.2 * normal
    if len(shape) == 1:
        return 1 + 0.1 * normal
    return normal * (1.0 if "embed" in name or "wte" in name else 0.8 / math.sqrt(shape[-1]))


def publish(name: str, directory: Path) -> Published:
    """Save a model with transformers, and run and differentiate it."""
    model = make_model(name)
    model.save_pretrained(directory / "checkpoint")
    ids = torch.randint(VOCAB, (SEQUENCES, SEQUENCE), generator=torch.Generator().manual_seed(1))
    out = model(ids, labels=ids, output_router_logits=True, use_cache=False)
    out.loss.backward()
    _save_gradients(name, model, directory / "gradients")
    aux_loss = getattr(out, "aux_loss", None)
    return Published(
        directory / "checkpoint",
        model,
        ids,
        out.logits.detach(),
        out.loss.item(),
        None if aux_loss is None else aux_loss.item(),
        directory / "gradients",
    )


def _save_gradients(name: str, model: transformers.PreTrainedModel, directory: Path) -> None:
    """Gradients under the names and in the layout of the checkpoint: saved as if they were the weights."""
    twin = make_model(name)
    for theirs, parameter in zip(twin.parameters(), model.parameters(), strict=True):
        theirs.data = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    twin.save_pretrained(directory)


def comparable(imported: Path) -> ModelSpec:
    """The model of an import, without the sequence-wise loss of its paper: transformers has none."""
    model = dsl.load(imported / "model.moe").model
    if statistics_of(model).sequence_aux is None:
        return model
    return dsl.load(imported / "model.moe", ["experts.balance=none"]).model


def read_in(name: str, checkpoint: Path, out: Path) -> Spec:
    """`moec import` of a checkpoint of this row."""
    return import_checkpoint(checkpoint, out, spec=FAMILIES[name].spec, find_model=models.read)
