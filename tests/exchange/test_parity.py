"""An imported model computes what transformers does: logits, losses, and the gradient of every parameter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from exchange.families import FAMILIES, Published, read_in
from moec import dsl
from moec.cli.exchange.logits import logits
from moec.cli.exchange.source import all_shapes
from moec.compiler.reference import reference_step
from moec.dsl.parameters import model_parameters
from moec.dsl.spec import ModelSpec
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
    name: str, published: Callable[[str], Published], imported: Callable[[str], Path], tmp_path: Path
) -> None:
    wanted = published(name)
    spec = dsl.load(imported(name) / "model.moe")
    targets = torch.full_like(wanted.ids, -100)
    targets[:, :-1] = wanted.ids[:, 1:]
    found = reference_step(spec.model, tensors(imported(name)), wanted.ids, targets, micro_batches=1)
    total = found.losses["loss"]
    if wanted.aux_loss is not None:
        assert found.losses["aux_loss"] == pytest.approx(wanted.aux_loss, rel=1e-5)
        total += wanted.coefficient * found.losses["aux_loss"]
    assert total == pytest.approx(wanted.loss, rel=1e-5)
    read_in(name, wanted.gradients, tmp_path / "gradients")
    theirs = tensors(tmp_path / "gradients")
    assert found.gradients.keys() == set(trained(spec.model))
    for parameter, gradient in found.gradients.items():
        difference = torch.linalg.vector_norm(gradient - theirs[parameter])
        assert difference <= 1e-4 * torch.linalg.vector_norm(theirs[parameter]), parameter
    unused = {parameter for parameter, gradient in theirs.items() if not gradient.count_nonzero()}
    assert all(parameter.endswith(".correction") or ".expert." in parameter for parameter in unused)
    for layer in range(len(spec.model.layers)):  # of each layer's experts some are chosen
        experts = {p for p in found.gradients if p.startswith(f"layers.{layer}.") and ".expert." in p}
        assert not experts or experts - unused


def tensors(directory: Path) -> dict[str, Tensor]:
    """All weights of an import, in the shapes of its model."""
    reader = WeightsReader(directory / "weights")
    shapes = all_shapes(dsl.load(directory / "model.moe"))
    return {n: reader.read(n, 0, prod(shape)).view(shape) for n, shape in shapes.items()}


def trained(model: ModelSpec) -> Iterator[str]:
    """The names of all parameters that have a gradient."""
    for region, parameter in model_parameters(model):
        yield from parameter.names(region) if parameter.trained else ()
