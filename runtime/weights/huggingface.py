"""Reading a published checkpoint: `model.safetensors`, or `model.safetensors.index.json` and its shards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from moec.runtime.abi.weight_map import FusedTensor, WeightMap
from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError, UserError
from moec.runtime.weights.index import check_file_name, read_json_file
from moec.runtime.weights.layout import LayoutError, Shape, places
from moec.runtime.weights.stored import Located, StoredTensors, contradictions, raise_listed
from moec.runtime.weights.tensor_file import read_header, shown

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_BYTES = 256 << 20


class HuggingFaceReader(StoredTensors):
    """The tensors of a published checkpoint, by moec's names.

    `names` says where they are; `shapes` has the shapes of all parameters, and those that are in tensors made
    of several need them. Where a directory has both, `model.safetensors` counts and not the index, as in
    transformers.

    Raises:
        UserError: the directory holds no safetensors checkpoint.
        IntegrityError: a mapped tensor is missing, there is one that is neither mapped nor ignored, one made
            of several parameters has another shape than they give, or files contradict each other.
        InputOutputError: reading failed.
    """

    def __init__(
        self, directory: Path, names: WeightMap, shapes: Mapping[str, Shape] = MappingProxyType({})
    ) -> None:
        found = _tensors(directory)
        raise_listed(directory, _differences(found, names))
        located = {name: found[tensor] for name, tensor in names.tensors.items()}
        problems: list[str] = []
        for tensor in names.fused:
            try:
                located |= _parts(tensor, found[tensor.name], shapes)
            except IntegrityError as error:
                problems.append(str(error))
        raise_listed(directory, problems)
        super().__init__(directory, located)


def _tensors(directory: Path) -> dict[str, Located]:
    if (directory / SINGLE_NAME).is_file():
        return _located(directory / SINGLE_NAME)
    if (directory / INDEX_NAME).is_file():
        return _indexed(directory)
    advice = ""
    if directory.is_dir() and any(directory.glob("*.bin")):
        advice = "; its .bin files are pickles, which are never read: save it again as safetensors"
    raise UserError(f"{directory} has neither {SINGLE_NAME} nor {INDEX_NAME}{advice}")


def _located(path: Path) -> dict[str, Located]:
    return {name: Located(path, name, entry) for name, entry in read_header(ReadOnlyFile(path)).items()}


def _indexed(directory: Path) -> dict[str, Located]:
    """All tensors of the shards that the index names, once index and headers are found in agreement."""
    weight_map = _weight_map(directory / INDEX_NAME)
    shards = {name: _shard(directory / name) for name in sorted(set(weight_map.values()))}
    raise_listed(directory, contradictions(weight_map, shards))
    return {name: shards[file][name] for name, file in weight_map.items()}


def _weight_map(path: Path) -> dict[str, str]:
    weight_map = read_json_file(path, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(weight_map, dict):
        raise IntegrityError(f"{path} has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str):
            raise IntegrityError(f"{path}: the file of {shown(name)} is no text")
    for file in set(weight_map.values()):
        check_file_name(file, str(path))
    return weight_map


def _shard(path: Path) -> dict[str, Located]:
    if not path.is_file():
        raise IntegrityError(f"{path} is missing: the index names it")
    return _located(path)


def _differences(found: Mapping[str, Located], names: WeightMap) -> Iterator[str]:
    exact = {text for text in names.ignored if "{}" not in text and not text.endswith("*")}
    patterns = [_pattern(text) for text in names.ignored if text not in exact]
    mapped = {tensor: name for name, tensor in names.tensors.items()}
    mapped |= {tensor.name: tensor.parameters[0] for tensor in names.fused}
    for tensor, name in mapped.items():
        if tensor not in found:
            yield f"no tensor {shown(tensor)}, which is {name}"
    for tensor, located in found.items():
        if tensor in mapped or tensor in exact:
            continue
        if not any(pattern.fullmatch(tensor) for pattern in patterns):
            yield f"{located} is neither mapped to a parameter nor ignored"


def _parts(tensor: FusedTensor, located: Located, shapes: Mapping[str, Shape]) -> dict[str, Located]:
    """The parameters that a tensor is made of. Raises IntegrityError."""
    unknown = next((name for name in tensor.parameters if name not in shapes), None)
    if unknown is not None:
        raise IntegrityError(f"{located} is mapped to {shown(unknown)}, which is no parameter of the model")
    try:
        found = places(tensor.forms, [shapes[name] for name in tensor.parameters])
    except LayoutError as error:
        raise IntegrityError(f"{located} cannot be made of its parameters: {error}") from error
    if located.entry.shape != found[0].whole:
        raise IntegrityError(
            f"{located} has shape {located.entry.shape}, {found[0].whole} is needed for "
            f"{_and_more(tensor.parameters)}"
        )
    return {name: replace(located, fused=place) for name, place in zip(tensor.parameters, found, strict=True)}


def _and_more(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _pattern(text: str) -> re.Pattern[str]:
    """`{}` matches a number; possessively, so that no name makes it slow. `*` at the end matches any rest."""
    known = "[0-9]++".join(map(re.escape, text.removesuffix("*").split("{}")))
    return re.compile(f"{known}.*" if text.endswith("*") else known, re.DOTALL)
