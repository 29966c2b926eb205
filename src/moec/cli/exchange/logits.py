"""`moec logits`: what a model says to token ids, from its reference graph, on one process."""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from moec.cli.exchange.source import open_source, widest_dtype
from moec.compiler.build.model import Shape, build
from moec.compiler.graph import Region, run
from moec.dsl.parameters import Parameter
from moec.dsl.spec import ModelSpec
from moec.runtime.abi.codec import FormatError, read_json
from moec.runtime.data.files import written_whole
from moec.runtime.errors import UserError
from moec.runtime.weights.stored import StoredTensors

MAX_FILE_BYTES = 64 << 20
MAX_VALUES = 1 << 32
"""Of the result, which is in memory as a whole."""


def logits(source: Path, ids_path: Path, out_path: Path) -> None:
    """Write `logits`, float32 (B, S, vocab), for a JSON list of B equally long lists of S token ids.

    Computes in float32, or in float64 where weights are. The weights of one region, such as a layer, are in
    memory at a time.

    Raises:
        SourceErrors, CompileError: the model is wrong.
        UserError: `source` is no import and no finished run, or the ids are not for this model.
        IntegrityError: the weights are damaged.
        InputOutputError: reading or writing failed.
    """
    spec, weights = open_source(source)
    ids = read_ids(ids_path, spec.model)
    with written_whole(out_path) as file:
        found = compute_logits(spec.model, weights, ids).float()
        file.write(save({"logits": found}))


def read_ids(path: Path, model: ModelSpec) -> Tensor:
    """(B, S) int64 from a JSON file.

    Raises:
        UserError: no such file, or it is no list of equally long lists of ids that the model can take.
        OSError: reading failed.
    """
    if not path.is_file():
        raise UserError(f"no file {path}")
    try:
        rows = read_json(path, MAX_FILE_BYTES)
    except FormatError as error:
        raise UserError(str(error)) from error
    length = _check_rows(rows, path)
    if length > model.context:
        raise UserError(
            f"{path}: lists of {length} ids are longer than the model's context of {model.context}"
        )
    values = len(rows) * length * model.vocab
    if values > MAX_VALUES:
        raise UserError(
            f"{path}: {len(rows)} x {length} ids make {values} logits, {model.vocab} an id; "
            f"at most {MAX_VALUES} are written"
        )
    for number, row in enumerate(rows):
        _check_row(row, number, model.vocab, path)
    return torch.tensor(rows, dtype=torch.int64)


def _check_rows(rows: object, path: Path) -> int:
    """A list of equally long lists, none of them empty; returns their length."""
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise UserError(f"{path}: expected a list of lists of ids, such as [[1, 2, 3], [4, 5, 6]]")
    length = len(rows[0])
    other = next((i for i, row in enumerate(rows) if len(row) != length), None)
    if other is not None:
        raise UserError(
            f"{path}: list {other} has {len(rows[other])} ids and list 0 has {length}; all need as many"
        )
    return length


def _check_row(row: list[object], number: int, vocab: int, path: Path) -> None:
    for place, token in enumerate(row):
        if type(token) is not int or not 0 <= token < vocab:
            shown = repr(token)[:40]
            raise UserError(
                f"{path}: id {place} of list {number} is {shown}; ids are whole numbers from 0 to {vocab - 1}"
            )


def compute_logits(model: ModelSpec, weights: StoredTensors, ids: Tensor) -> Tensor:
    """(B, S) int64 -> (B, S, vocab), float32, or float64 where weights are. Raises CompileError."""
    sequences, sequence = ids.shape
    dtype = torch.promote_types(widest_dtype(weights), torch.float32)
    reference = build(model, Shape(sequences, sequence, dtype), head="logits")
    tokens = torch.tensor(ids.numel())
    facts = {
        "sequences": torch.tensor(sequences),
        "micro_tokens": tokens,
        "batch_tokens": tokens,
        "tokens": ids,
    }
    values: dict[str, Tensor] = {}
    with torch.inference_mode():
        for instance, kind in reference.chain:
            region = reference.kinds[kind]
            values = run(region, _parameters(region, instance, weights, dtype), facts | values)
    return values["logits"].view(sequences, sequence, model.vocab)


def _parameters(
    region: Region, instance: str, weights: StoredTensors, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The weights of one instance of a region, by path."""
    prefix = instance if instance.startswith("layers.") else ""
    return {p.path: _read(p, prefix, weights, dtype) for p in region.parameters}


def _read(parameter: Parameter, prefix: str, weights: StoredTensors, dtype: torch.dtype) -> Tensor:
    """One parameter in its stored shape, experts stacked, widened to `dtype`."""
    whole = torch.empty(parameter.stored_shape, dtype=dtype)
    numel = prod(parameter.shape)
    for flat, name in zip(whole.view(-1, numel), parameter.names(prefix), strict=True):
        flat.copy_(weights.read(name, 0, numel))
    return whole
