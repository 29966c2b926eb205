"""`moec checkpoint convert`: the parameters of a checkpoint as weights, or as a Hugging Face checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from moec.cli.exchange.directory import check_new, new_directory, write_file
from moec.cli.exchange.export_hf import export_checkpoint
from moec.cli.exchange.source import MODEL_NAME, WEIGHTS_NAME, Shapes, all_shapes, region_shapes
from moec.runtime.checkpoint.load import Checkpoint
from moec.runtime.errors import IntegrityError
from moec.runtime.weights.tensor_file import DTYPES
from moec.runtime.weights.writer import WeightsWriter
from moec.specs import load

_PART = "parameter"


def to_weights(folder: Path, out: Path) -> None:
    """Write OUT/model.moe and OUT/weights, as a finished run has them; a block is in memory at a time.

    Raises:
        UserError: something is at `out` already.
        IntegrityError: the checkpoint is damaged.
        InputOutputError: reading or writing failed.
    """
    check_new(out)
    checkpoint = Checkpoint(folder)
    checkpoint.verify_share(0, 1)
    with new_directory(out) as partial:
        write_file(partial / MODEL_NAME, checkpoint.source().encode())
        spec = load(partial / MODEL_NAME)
        _check_shapes(checkpoint, all_shapes(spec))
        with WeightsWriter(partial / WEIGHTS_NAME) as writer:
            for region, shapes in region_shapes(spec).items():
                dtype = _dtype(checkpoint, shapes)
                writer.write_region(region, shapes, dtype, _blocks(checkpoint, shapes, dtype))


def to_huggingface(folder: Path, out: Path) -> None:
    """Write a Hugging Face checkpoint, by the map in the model's text. Raises as `to_weights` does, and
    SourceErrors where the model has no map."""
    check_new(out)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.resolve().parent) as scratch:
        weights = Path(scratch) / "weights"
        to_weights(folder, weights)
        export_checkpoint(weights, out)


def _check_shapes(checkpoint: Checkpoint, shapes: Shapes) -> None:
    found = {name: parameter.shape for name, parameter in checkpoint.manifest.parameters.items()}
    if found != shapes:
        name = min(n for n in {*found, *shapes} if found.get(n) != shapes.get(n))
        raise IntegrityError(
            f"{checkpoint.folder}: {name} is {found.get(name)}, and {shapes.get(name)} by its {MODEL_NAME}"
        )


def _dtype(checkpoint: Checkpoint, shapes: Shapes) -> torch.dtype:
    """The narrowest dtype that holds all values of a region exactly."""
    codes = {code for name in shapes for code in checkpoint.dtypes(_PART, name)}
    found = torch.float32 if not codes else DTYPES[min(codes)]
    for code in codes:
        found = torch.promote_types(found, DTYPES[code])
    return found


def _blocks(checkpoint: Checkpoint, shapes: Shapes, dtype: torch.dtype) -> Iterator[tuple[str, Tensor]]:
    for name, shape in shapes.items():
        for block in checkpoint.read(_PART, name, 0, torch.Size(shape).numel()):
            yield name, block.to(dtype)
