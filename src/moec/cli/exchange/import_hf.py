"""`moec import`: a Hugging Face checkpoint -> `model.moe` and `weights/`."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path

from moec import models
from moec.cli.exchange.directory import check_new, new_directory, write_file
from moec.cli.exchange.source import (
    MODEL_NAME,
    WEIGHTS_NAME,
    Shapes,
    all_shapes,
    region_shapes,
    widest_dtype,
)
from moec.compiler.emit.weight_map import weight_map
from moec.dsl import Spec, spec_from_config, spec_with_config
from moec.dsl.resolve import FindModel
from moec.dsl.spec import Checkpoint
from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError, UserError
from moec.runtime.weights.huggingface import HuggingFaceReader
from moec.runtime.weights.index import read_json_file
from moec.runtime.weights.load import copy_weights
from moec.runtime.weights.tensor_file import read_header

CONFIG_NAME = "config.json"
MAX_CONFIG_BYTES = 1 << 20

_FUSED = (".experts.gate_up_proj", ".experts.down_proj")
"""How transformers names the experts of a layer in memory, all in one tensor."""


def import_checkpoint(hf_dir: Path, out: Path, *, spec: str | None = None, find_model: FindModel) -> Spec:
    """Write OUT/model.moe and OUT/weights from a directory with config.json and safetensors.

    The model is the shipped one of the config's `model_type`, or `spec`, with the values of the config.
    Weights keep their dtype; where a checkpoint mixes dtypes, all get the one that holds every value exactly.
    A block of one tensor is in memory at a time.

    Raises:
        SourceErrors: no known model fits the config, or `spec` is wrong.
        UserError: no config or checkpoint, an unsupported layout of it, or something is at `out` already.
        IntegrityError: the checkpoint is damaged, or its tensors are not those of the model.
        InputOutputError: reading or writing failed.
    """
    check_new(out)
    config = read_json_file(hf_dir / CONFIG_NAME, MAX_CONFIG_BYTES)
    found = _spec(config, spec, find_model)
    assert found.checkpoint is not None, "the config was read through its weight map"
    weights = _open(hf_dir, found.checkpoint, all_shapes(found))
    dtype = widest_dtype(weights)
    weights.check_against(all_shapes(found), dtype)
    with new_directory(out) as partial:
        write_file(partial / MODEL_NAME, found.text.encode())
        copy_weights(weights, partial / WEIGHTS_NAME, region_shapes(found), dtype)
    return found


def _spec(config: Mapping[str, object], spec: str | None, find_model: FindModel) -> Spec:
    if spec is None:
        return spec_from_config(config, find_model, models.names())
    return spec_with_config(spec, config, find_model, models.names())


def _open(hf_dir: Path, checkpoint: Checkpoint, shapes: Shapes) -> HuggingFaceReader:
    names = weight_map(checkpoint)
    try:
        return HuggingFaceReader(hf_dir, names, shapes)
    except IntegrityError as error:
        fused = _fused_tensor(hf_dir, {tensor.name for tensor in names.fused})
        if fused is None:
            raise
        raise UserError(
            f"{hf_dir} holds all experts of a layer in one tensor ({fused}), a layout that the weight map of "
            "the model does not have: save it again with save_pretrained of transformers, which writes the "
            "published layout"
        ) from error


def _fused_tensor(hf_dir: Path, mapped: Set[str]) -> str | None:
    """The first tensor that holds several experts and is not mapped. Raises IntegrityError for a damaged
    file."""
    names = (
        name for path in sorted(hf_dir.glob("*.safetensors")) for name in read_header(ReadOnlyFile(path))
    )
    return next((name for name in names if name.endswith(_FUSED) and name not in mapped), None)
