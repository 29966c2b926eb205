"""A model with its weights on disk: `model.moe` beside `weights/`, as import and training leave them."""

from __future__ import annotations

from functools import reduce
from pathlib import Path

import torch

from moec import dsl
from moec.dsl.parameters import Parameter, embed_parameters, head_parameters, layer_parameters
from moec.runtime.errors import UserError
from moec.runtime.record.recorder import STATUS
from moec.runtime.record.status import read_status
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.stored import StoredTensors
from moec.specs import load

MODEL_NAME = "model.moe"
WEIGHTS_NAME = "weights"

Shapes = dict[str, tuple[int, ...]]


def open_source(directory: Path) -> tuple[dsl.Spec, WeightsReader]:
    """The model of an import or a finished run, and its weights, found whole and undamaged.

    Raises:
        SourceErrors: the model does not parse.
        UserError: the directory is neither of the two.
        IntegrityError: the weights are damaged, or not those of the model.
        InputOutputError: reading failed.
    """
    path = directory / MODEL_NAME
    if not path.is_file():
        raise UserError(f"{directory} is no import and no finished run: it has no {MODEL_NAME}")
    _check_finished(directory)
    spec = load(path)
    weights = WeightsReader(directory / WEIGHTS_NAME)
    weights.check_against(all_shapes(spec), widest_dtype(weights))
    weights.verify()
    return spec, weights


def _check_finished(directory: Path) -> None:
    """The weights beside the record of a run that did not come to its end are those of an earlier run."""
    if (directory / STATUS).is_file() and (state := read_status(directory / STATUS).state) != "complete":
        raise UserError(f"{directory} is no finished run: by its {STATUS} it is {state}")


def region_shapes(spec: dsl.Spec) -> dict[str, Shapes]:
    """Region -> parameter name -> shape, in the order of the model. Regions: embed, layers.<i>, head."""
    model = spec.model
    return {
        "embed": _shapes("", embed_parameters(model)),
        **{
            f"layers.{i}": _shapes(f"layers.{i}", layer_parameters(layer, model.width))
            for i, layer in enumerate(model.layers)
        },
        "head": _shapes("", head_parameters(model)),
    }


def all_shapes(spec: dsl.Spec) -> Shapes:
    """Parameter name -> shape, for the whole model in order."""
    return {name: shape for shapes in region_shapes(spec).values() for name, shape in shapes.items()}


def _shapes(prefix: str, parameters: tuple[Parameter, ...]) -> Shapes:
    return {name: p.shape for p in parameters for name in p.names(prefix)}


def widest_dtype(weights: StoredTensors) -> torch.dtype:
    """The narrowest float dtype that holds all values of all tensors exactly; float32 if none is of floats.

    Raises:
        IntegrityError: a tensor is of a dtype that cannot be read.
    """
    dtypes = {weights.dtype(name) for name in weights.names()}
    floats = sorted((dtype for dtype in dtypes if dtype.is_floating_point), key=str)
    return reduce(torch.promote_types, floats) if floats else torch.float32
