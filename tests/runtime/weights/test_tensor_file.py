"""One safetensors file: read as the safetensors library writes it, refused wherever it does not add up."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from moec.runtime.data.files import ReadOnlyFile
from moec.runtime.errors import IntegrityError
from moec.runtime.weights import tensor_file
from moec.runtime.weights.tensor_file import DTYPES, header_of, read_header, read_slice

SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file_of(path: Path, header: object, data: bytes = b"", length: int | None = None) -> ReadOnlyFile:
    """A file with this header; `length` replaces the true one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return ReadOnlyFile(path)


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8), st.tuples(SHAPES, st.sampled_from(list(DTYPES.values()))), max_size=5
    )
)
def test_every_slice_of_what_the_library_writes_is_read(
    tmp_path_factory: pytest.TempPathFactory, kinds: dict[str, tuple[tuple[int, ...], torch.dtype]]
) -> None:
    kinds.pop("__metadata__", None)
    tensors = {name: torch.randint(0, 2, shape).to(dtype) for name, (shape, dtype) in kinds.items()}
    path = tmp_path_factory.mktemp("written") / "x.safetensors"
    save_file(tensors, path)
    file = ReadOnlyFile(path)
    header = read_header(file)
    assert header.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert header[name].shape == tensor.shape
        flat = tensor.flatten()
        for start in range(len(flat) + 1):
            read = read_slice(file, header[name], start, len(flat) - start)
            assert read.dtype == tensor.dtype
            assert torch.equal(read, flat[start:])
        if len(flat):
            assert torch.equal(read_slice(file, header[name], 0, 1), flat[:1])


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=8), SHAPES, max_size=5), st.sampled_from(list(DTYPES.values())))
def test_the_library_reads_what_is_written(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype
) -> None:
    shapes.pop("__metadata__", None)
    path = tmp_path_factory.mktemp("written") / "x.safetensors"
    header = header_of(shapes, dtype)
    path.write_bytes(header + bytes(dtype.itemsize * sum(map(prod, shapes.values()))))
    assert len(header) % 8 == 0
    read = load_file(path)
    assert {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in read.items()} == {
        name: (shape, dtype) for name, shape in shapes.items()
    }


GOOD = entry("F32", [2], 0, 8)
HOSTILE: dict[str, tuple[object, bytes, int | None, str]] = {
    "longer than the file": (b"{}", b"", 1 << 20, "truncated or no safetensors file"),
    "of 2^64 - 1 bytes": (b"{}", b"", (1 << 64) - 1, "truncated or no safetensors file"),
    "of blanks": (b" " * 2000, b"", None, "not valid JSON"),
    "not JSON": (b"{'a': 1}", b"", None, "not valid JSON"),
    "not UTF-8": (b'{"\xff": 1}', b"", None, "not valid JSON"),
    "a list": ([GOOD], b"", None, "expected a JSON object"),
    "nested deeply": (b"[" * 500 + b"]" * 500, b"", None, "nested|JSON"),
    "with a number of many digits": (b'{"a": ' + b"9" * 900 + b"}", b"", None, "is not described by"),
    "a name twice": (b'{"a": {}, "a": {}}', b"", None, "twice"),
    "a number for an entry": ({"a": 1}, b"", None, "'a' is not described by"),
    "a key more": ({"a": GOOD | {"x": 1}}, bytes(8), None, "'a' is not described by"),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8), None, "is not described by"),
    "three offsets": ({"a": GOOD | {"data_offsets": [0, 4, 8]}}, bytes(8), None, "is not described by"),
    "offsets of texts": ({"a": GOOD | {"data_offsets": ["0", "8"]}}, bytes(8), None, "is not described by"),
    "a negative size": ({"a": entry("F32", [-2, -1], 0, 8)}, bytes(8), None, "is not described by"),
    "a size that is true": ({"a": GOOD | {"shape": [True]}}, bytes(4), None, "is not described by"),
    "a huge size": ({"a": entry("F32", [1 << 62, 0], 0, 0)}, b"", None, "is not described by"),
    "many dims": ({"a": entry("F32", [1] * 9, 0, 4)}, bytes(4), None, "is not described by"),
    "no such dtype": ({"a": entry("F33", [2], 0, 8)}, bytes(8), None, "the format has no dtype 'F33'"),
    "a product over 2^64": (
        {"a": entry("U8", [1 << 40] * 3, 0, 8)},
        bytes(8),
        None,
        "does not fill the bytes",
    ),
    "too many bytes": ({"a": entry("F32", [2], 0, 12)}, bytes(12), None, "does not fill the bytes 0 to 12"),
    "offsets backwards": ({"a": entry("F32", [2], 8, 0)}, bytes(8), None, "does not fill the bytes 8 to 0"),
    "before the data": ({"a": entry("F32", [2], -8, 0)}, bytes(8), None, "'a' overlaps the tensor before it"),
    "overlapping": ({"a": GOOD, "b": entry("F32", [2], 4, 12)}, bytes(12), None, "'b' overlaps the tensor"),
    "the same bytes twice": ({"a": GOOD, "b": GOOD}, bytes(8), None, "'b' overlaps the tensor before it"),
    "a gap": ({"a": GOOD, "b": entry("F32", [1], 12, 16)}, bytes(16), None, "'b' leaves a gap"),
    "truncated": ({"a": GOOD}, bytes(7), None, "but its header describes .*: truncated"),
    "a tail": ({"a": GOOD}, bytes(9), None, "something follows the tensors"),
    "a long name": ({"a" * 1025: GOOD}, bytes(8), None, r"'a{117}\.\.\.': its name has more than"),
    "an escape in a name": ({"\x1b[31m": 1}, b"", None, r"'\\x1b\[31m' is not described by"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_header_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(tensor_file, "MAX_HEADER_BYTES", 1999)
    header, data, length, message = HOSTILE[case]
    file = file_of(tmp_path / "x.safetensors", header, data, length)
    with pytest.raises(IntegrityError, match=message) as failure:
        read_header(file)
    assert "x.safetensors" in str(failure.value)
    assert len(str(failure.value)) < 500


def test_a_file_too_short_for_a_length_is_refused(tmp_path: Path) -> None:
    for size in range(8):
        (tmp_path / "x").write_bytes(bytes(size))
        with pytest.raises(IntegrityError, match="too few"):
            read_header(ReadOnlyFile(tmp_path / "x"))


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_whatever_is_changed_in_a_file_it_is_refused_or_read_within_its_bytes(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Where the library refuses a file, so do we; where we take it, every tensor lies within the file."""
    header: dict[str, Any] = {"a": GOOD, "b": entry("BF16", [3, 1], 8, 14)}
    text = json.dumps(header).encode()
    content = bytearray(struct.pack("<Q", len(text)) + text + bytes(14))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.sampled_from([0, 1, 255, *b'0123456789[]{},:"F']))
    path = tmp_path_factory.mktemp("changed") / "x.safetensors"
    path.write_bytes(content)
    file = ReadOnlyFile(path)
    try:
        found = read_header(file)
    except IntegrityError:
        return
    with safetensors.safe_open(path, "pt") as theirs:
        assert set(theirs.keys()) == found.keys()
    for tensor in found.values():
        if tensor.dtype in DTYPES:
            assert read_slice(file, tensor, 0, tensor.numel).numel() == tensor.numel


def test_elements_that_are_not_there_are_an_index_error(tmp_path: Path) -> None:
    file = file_of(tmp_path / "x", {"a": GOOD}, bytes(8))
    for start, count in ((-1, 1), (0, 3), (2, 1), (1, -1)):
        with pytest.raises(IndexError, match="of a tensor of 2"):
            read_slice(file, read_header(file)["a"], start, count)
