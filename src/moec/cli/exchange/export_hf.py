"""`moec export`: `model.moe` and `weights/` -> a Hugging Face checkpoint."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from moec.cli.exchange.directory import check_new, new_directory, write_file
from moec.cli.exchange.source import Shapes, all_shapes, open_source, widest_dtype
from moec.dsl import Spec, checkpoint_config
from moec.dsl.spec import Checkpoint, FileTensor
from moec.runtime.abi.codec import dump
from moec.runtime.abi.weight_map import Form
from moec.runtime.weights.assemble import BLOCK, assembled
from moec.runtime.weights.layout import Place, places
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.tensor_file import header_of

PART_BYTES = 5_000_000_000
"""A checkpoint of more data than this goes into several files, unless it is one tensor."""


@dataclass(frozen=True)
class _Tensor:
    """A tensor of the checkpoint, and the parameters that it is made of, with their places; zeros without."""

    name: str
    shape: tuple[int, ...]
    parts: Sequence[tuple[str, Place]] = ()

    def blocks(self, weights: WeightsReader, dtype: torch.dtype) -> Iterator[Tensor]:
        """Its content, block after block. Raises IntegrityError, InputOutputError."""
        if self.parts:
            yield from assembled(weights, self.parts, dtype)
            return
        left = prod(self.shape)
        while left:
            yield torch.zeros(min(left, BLOCK), dtype=dtype)
            left -= min(left, BLOCK)


@dataclass(frozen=True)
class _Part:
    """A file of the checkpoint, and its tensors in order."""

    file: str
    tensors: Sequence[_Tensor]


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
    parts = _parts(spec, dtype, part_bytes)
    with new_directory(to) as partial:
        write_file(partial / "config.json", dump(config))
        for part in parts:
            _write_part(partial, part, weights, dtype)
        if len(parts) > 1:
            write_file(partial / "model.safetensors.index.json", dump(_index(parts, dtype)))


def _parts(spec: Spec, dtype: torch.dtype, part_bytes: int) -> list[_Part]:
    """All tensors in the order of the model, cut into files of at most `part_bytes`."""
    assert spec.checkpoint is not None, "checkpoint_config would have raised"
    cut: list[list[_Tensor]] = [[]]
    filled_bytes = 0
    for made in _tensors(spec.checkpoint, all_shapes(spec)):
        size_bytes = prod(made.shape) * dtype.itemsize
        if cut[-1] and filled_bytes + size_bytes > part_bytes:
            cut.append([])
            filled_bytes = 0
        cut[-1].append(made)
        filled_bytes += size_bytes
    if len(cut) == 1:
        return [_Part("model.safetensors", cut[0])]
    return [_Part(f"model-{i:05}-of-{len(cut):05}.safetensors", part) for i, part in enumerate(cut, 1)]


def _tensors(checkpoint: Checkpoint, shapes: Shapes) -> Iterator[_Tensor]:
    yield from (_tensor(tensor, shapes) for tensor in checkpoint.tensors)
    for blank in checkpoint.blanks:
        yield from (_Tensor(name, blank.shape) for name in blank.tensors())


def _tensor(tensor: FileTensor, shapes: Shapes) -> _Tensor:
    forms = [Form(form.kind, form.count) for form in tensor.forms]
    found = places(forms, [shapes[name] for name in tensor.parameters])
    return _Tensor(tensor.name, found[0].whole, tuple(zip(tensor.parameters, found, strict=True)))


def _index(parts: list[_Part], dtype: torch.dtype) -> dict[str, object]:
    numel = sum(prod(tensor.shape) for part in parts for tensor in part.tensors)
    return {
        "metadata": {"total_size": numel * dtype.itemsize},
        "weight_map": {tensor.name: part.file for part in parts for tensor in part.tensors},
    }


def _write_part(directory: Path, part: _Part, weights: WeightsReader, dtype: torch.dtype) -> None:
    with (directory / part.file).open("xb") as file:
        file.write(header_of({tensor.name: tensor.shape for tensor in part.tensors}, dtype))
        for tensor in part.tensors:
            for block in tensor.blocks(weights, dtype):
                file.write(block.view(-1).view(torch.uint8).numpy().data)
        file.flush()
        os.fsync(file.fileno())
