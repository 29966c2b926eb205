"""An imported model computes what transformers does: logits, losses, and the gradient of every parameter."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from exchange.families import FAMILIES, Published, comparable, read_in
from exchange.parity import GRADIENT_TOLERANCE, logits_apart, losses_apart, shifted, tensors
from moec.cli.exchange.logits import logits
from moec.compiler.reference import reference_step
from moec.dsl.parameters import model_parameters
from moec.dsl.spec import ModelSpec

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
    assert logits_apart(found["logits"], wanted) <= 1


def test_losses_and_gradients_are_those_of_transformers(
    name: str, published: Callable[[str], Published], imported: Callable[[str], Path], tmp_path: Path
) -> None:
    wanted = published(name)
    model = comparable(imported(name))
    weights, targets = tensors(imported(name)), shifted(wanted.ids)
    found = reference_step(model, weights, wanted.ids, targets, micro_batches=1)
    assert losses_apart(model, found.losses, wanted) <= 1
    read_in(name, wanted.gradients, tmp_path / "gradients")
    theirs = tensors(tmp_path / "gradients")
    assert found.gradients.keys() == set(trained(model))
    for parameter, gradient in found.gradients.items():
        difference = torch.linalg.vector_norm(gradient - theirs[parameter])
        assert difference <= GRADIENT_TOLERANCE * torch.linalg.vector_norm(theirs[parameter]), parameter
    unused = {parameter for parameter, gradient in theirs.items() if not gradient.count_nonzero()}
    assert all(parameter.endswith(".correction") or ".expert." in parameter for parameter in unused)
    for layer in range(len(model.layers)):  # of each layer's experts some are chosen
        experts = {p for p in found.gradients if p.startswith(f"layers.{layer}.") and ".expert." in p}
        assert not experts or experts - unused


def trained(model: ModelSpec) -> Iterator[str]:
    """The names of all parameters that have a gradient."""
    for region, parameter in model_parameters(model):
        yield from parameter.names(region) if parameter.trained else ()
