"""`moec export`: `model.moe` and `weights/` -> a Hugging Face checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from moec.cli.exchange.directory import check_new, new_directory, write_file
from moec.cli.exchange.source import Shapes, all_shapes, open_source, widest_dtype
from moec.dsl import Spec, checkpoint_config
from moec.runtime.abi.codec import dump
from moec.runtime.weights.load import BLOCK
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.tensor_file import header_of

PART_BYTES = 5_000_000_000
"""A checkpoint of more data than this goes into several files, unless it is one tensor."""


@dataclass(frozen=True)
class _Part:
    """A file of the checkpoint, and its tensors in order: name -> shape."""

    file: str
    shapes: Shapes


def export_checkpoint(source: Path, to: Path, *, part_bytes: int = PART_BYTES) -> None:
    """Write TO/config.json and safetensors, as transformers reads them, from an import or a finished run.

    Tensors keep their dtype; several dtypes become the one that holds every value exactly. A block of one
    tensor is in memory at a time.

    Raises:
        SourceErrors: the model has no weight map, or a value that the config cannot express.
        UserError: `source` is no import and no finished run, or something is at `to` already.
        IntegrityError: the weights are damaged.
        InputOutputError: reading or writing failed.
    """
    check_new(to)
    spec, weights = open_source(source)
    dtype = widest_dtype(weights)
    config = checkpoint_config(spec) | {"torch_dtype": str(dtype).removeprefix("torch.")}
    names = _names(spec)
    parts = _parts(spec, names, dtype, part_bytes)
    with new_directory(to) as partial:
        write_file(partial / "config.json", dump(config))
        for part in parts:
            _write_part(partial, part, names, weights, dtype)
        if len(parts) > 1:
            write_file(partial / "model.safetensors.index.json", dump(_index(parts, dtype)))


def _names(spec: Spec) -> dict[str, str]:
    """The published name of every tensor -> moec's."""
    assert spec.checkpoint is not None, "checkpoint_config would have raised"
    return {tensor: name for name, tensor in spec.checkpoint.plain.items()}


def _parts(spec: Spec, names: Mapping[str, str], dtype: torch.dtype, part_bytes: int) -> list[_Part]:
    """All tensors in the order of the model, cut into files of at most `part_bytes`."""
    shapes = all_shapes(spec)
    cut: list[Shapes] = [{}]
    filled_bytes = 0
    for tensor, name in names.items():
        size_bytes = prod(shapes[name]) * dtype.itemsize
        if cut[-1] and filled_bytes + size_bytes > part_bytes:
            cut.append({})
            filled_bytes = 0
        cut[-1][tensor] = shapes[name]
        filled_bytes += size_bytes
    if len(cut) == 1:
        return [_Part("model.safetensors", cut[0])]
    return [_Part(f"model-{i:05}-of-{len(cut):05}.safetensors", part) for i, part in enumerate(cut, 1)]


def _index(parts: list[_Part], dtype: torch.dtype) -> dict[str, object]:
    numel = sum(prod(shape) for part in parts for shape in part.shapes.values())
    return {
        "metadata": {"total_size": numel * dtype.itemsize},
        "weight_map": {tensor: part.file for part in parts for tensor in part.shapes},
    }


def _write_part(
    directory: Path, part: _Part, names: Mapping[str, str], weights: WeightsReader, dtype: torch.dtype
) -> None:
    with (directory / part.file).open("xb") as file:
        file.write(header_of(part.shapes, dtype))
        for tensor, shape in part.shapes.items():
            for block in _blocks(weights, names[tensor], prod(shape)):
                file.write(block.to(dtype).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())


def _blocks(weights: WeightsReader, name: str, numel: int) -> Iterator[torch.Tensor]:
    for begin in range(0, numel, BLOCK):
        yield weights.read(name, begin, min(BLOCK, numel - begin))
