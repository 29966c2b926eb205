"""Reading a published checkpoint: `model.safetensors`, or `model.safetensors.index.json` and its shards."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError, UserError
from moec.runtime.weights.index import check_file_name, read_json_file
from moec.runtime.weights.stored import Located, StoredTensors, contradictions, raise_listed
from moec.runtime.weights.tensor_file import read_header, shown

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
MAX_INDEX_BYTES = 256 << 20


class HuggingFaceReader(StoredTensors):
    """The tensors of a published checkpoint, by moec's names.

    `name_map` is moec's name -> the tensor's; the tensors have the parameters' shapes. Tensors that are not
    mapped have to match one of the patterns `ignored`, in which `{}` stands for a number. Where a directory
    has both, `model.safetensors` counts and not the index, as in transformers.

    Raises:
        UserError: the directory holds no safetensors checkpoint.
        IntegrityError: a mapped tensor is missing, there is one that is neither mapped nor ignored, or files
            contradict each other.
        InputOutputError: reading failed.
    """

    def __init__(self, directory: Path, name_map: Mapping[str, str], ignored: Sequence[str] = ()) -> None:
        found = _tensors(directory)
        raise_listed(directory, _differences(found, name_map, ignored))
        super().__init__(directory, {name: found[tensor] for name, tensor in name_map.items()})


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


def _differences(
    found: Mapping[str, Located], name_map: Mapping[str, str], ignored: Sequence[str]
) -> Iterator[str]:
    patterns = [_pattern(text) for text in ignored]
    mapped = set(name_map.values())
    if len(mapped) < len(name_map):
        raise ValueError("name_map maps two names to one tensor")
    for name, tensor in name_map.items():
        if tensor not in found:
            yield f"no tensor {shown(tensor)}, which is {name}"
    for tensor, located in found.items():
        if tensor not in mapped and not any(pattern.fullmatch(tensor) for pattern in patterns):
            yield f"{located} is neither mapped to a parameter nor ignored"


def _pattern(text: str) -> re.Pattern[str]:
    """`{}` matches a number; possessively, so that no name makes it slow."""
    return re.compile("[0-9]++".join(map(re.escape, text.split("{}"))))
