"""An imported model computes what transformers does: logits, losses, and the gradient of every parameter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exchange.families import FAMILIES, Published
from moec import dsl
from moec.cli.exchange.logits import logits
from moec.cli.exchange.source import all_shapes
from moec.compiler.reference import reference_step
from moec.runtime.weights.reader import WeightsReader

pytestmark = pytest.mark.parametrize("name", FAMILIES)


def test_logits_are_those_of_transformers(
    name: str, published: Callable[[str], Published], imported: Callable[[str], Path], tmp_path: Path
) -> None:
    wanted = published(name)
    (tmp_path / "ids.json").write_text(json.dumps(wanted.ids.tolist()))
    logits(imported(name), tmp_path / "ids.json", tmp_path / "logits.safetensors")
    found = load_file(tmp_path / "logits.safetensors")
    assert found.keys() == {"logits"}
    assert found["logits"].dtype == torch.float32
    assert found["logits"].shape == wanted.logits.shape
    difference = (found["logits"] - wanted.logits).abs().max().item()
    assert difference <= 1e-5 * max(1.0, wanted.logits.abs().max().item())


def test_losses_and_gradients_are_those_of_transformers(
    name: str, published: Callable[[str], Published], imported: Callable[[str], Path]
) -> None:
    wanted = published(name)
    spec = dsl.load(imported(name) / "model.moe")
    assert spec.checkpoint is not None
    reader = WeightsReader(imported(name) / "weights")
    weights = {n: reader.read(n, 0, shape.numel()).view(shape) for n, shape in _sizes(spec).items()}
    targets = torch.full_like(wanted.ids, -100)
    targets[:, :-1] = wanted.ids[:, 1:]
    found = reference_step(spec.model, weights, wanted.ids, targets, micro_batches=1)
    coefficient = wanted.model.config.router_aux_loss_coef
    assert found.losses["aux_loss"] == pytest.approx(wanted.aux_loss, rel=1e-5)
    total = found.losses["loss"] + coefficient * found.losses["aux_loss"]
    assert total == pytest.approx(wanted.loss, rel=1e-5)
    assert found.gradients.keys() == spec.checkpoint.plain.keys()
    assert wanted.gradients.keys() == set(spec.checkpoint.plain.values())
    for parameter, tensor in spec.checkpoint.plain.items():
        theirs = wanted.gradients[tensor]
        difference = torch.linalg.vector_norm(found.gradients[parameter] - theirs)
        assert difference <= 1e-4 * torch.linalg.vector_norm(theirs), parameter


def _sizes(spec: dsl.Spec) -> dict[str, torch.Size]:
    return {name: torch.Size(shape) for name, shape in all_shapes(spec).items()}
