"""Parameters inside of tensors made of several: read, put together and checked against plain torch."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from moec.runtime.abi.weight_map import Form, FusedTensor, WeightMap
from moec.runtime.errors import IntegrityError
from moec.runtime.weights import assemble
from moec.runtime.weights.assemble import assembled
from moec.runtime.weights.huggingface import HuggingFaceReader
from moec.runtime.weights.layout import Strided, blocks_of, flat_range, full, places
from moec.runtime.weights.strided import copy, read_strided
from tensor_forms import Chain, chains, made

shapes = st.lists(st.integers(1, 5), max_size=4).map(tuple)


def reader_of(chain: Chain, directory: Path) -> HuggingFaceReader:
    """The parameters of a chain, out of a file in which they are one tensor."""
    parameters = chain.parameters()
    tensor = made(chain.forms, list(parameters.values())).contiguous()
    save_file({"t": tensor}, directory / "model.safetensors")
    return HuggingFaceReader(directory, chain.map(), {name: p.shape for name, p in parameters.items()})


@given(chain=chains())
def test_parameters_come_out_of_a_file_as_they_went_in(
    chain: Chain, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reader = reader_of(chain, tmp_path_factory.mktemp("checkpoint"))
    for name, parameter in chain.parameters().items():
        assert reader.shape(name) == parameter.shape
        assert torch.equal(reader.read(name, 0, parameter.numel()), parameter.flatten())
        assert torch.equal(reader.read_box(name, full(parameter.shape)), parameter)


@given(chain=chains(), data=st.data())
def test_a_slice_is_that_of_the_whole_parameter(
    chain: Chain, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reader = reader_of(chain, tmp_path_factory.mktemp("checkpoint"))
    name, parameter = data.draw(st.sampled_from(sorted(chain.parameters().items(), key=lambda x: x[0])))
    start = data.draw(st.integers(0, parameter.numel()))
    stop = data.draw(st.integers(start, parameter.numel()))
    assert torch.equal(reader.read(name, start, stop - start), parameter.flatten()[start:stop])
    box = tuple(sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in parameter.shape)
    wanted = parameter[tuple(slice(low, high) for low, high in box)]
    assert torch.equal(reader.read_box(name, tuple((low, high) for low, high in box)), wanted)
    with pytest.raises(IndexError):
        reader.read(name, start, parameter.numel() - start + 1)
    with pytest.raises(IndexError):
        reader.read_box(name, ((0, parameter.shape[0] + 1), *full(parameter.shape[1:])))


@given(chain=chains(), block=st.integers(1, 40))
def test_a_tensor_put_together_is_the_one_of_plain_torch(
    chain: Chain, block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    parameters = chain.parameters()
    directory = tmp_path_factory.mktemp("checkpoint")
    save_file(parameters, directory / "model.safetensors")
    reader = HuggingFaceReader(directory, WeightMap({name: name for name in parameters}, (), ()))
    parts = list(zip(parameters, places(chain.forms, chain.shapes), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assemble, "BLOCK", block)
        blocks = list(assembled(reader, parts, torch.float32))
    wanted = made(chain.forms, list(parameters.values()))
    assert all(0 < found.numel() <= block for found in blocks)
    assert parts[0][1].whole == wanted.shape
    assert torch.equal(torch.cat([found.flatten() for found in blocks]), wanted.flatten().float())


@given(shape=shapes, data=st.data())
def test_a_flat_range_is_few_boxes_in_order(shape: tuple[int, ...], data: st.DataObject) -> None:
    whole = torch.arange(prod(shape)).view(shape)
    start = data.draw(st.integers(0, whole.numel()))
    stop = data.draw(st.integers(start, whole.numel()))
    boxes = list(flat_range(shape, start, stop))
    assert len(boxes) <= max(1, 2 * len(shape) - 1)
    found = [whole[tuple(slice(low, high) for low, high in box)].flatten() for box in boxes]
    assert torch.equal(torch.cat([torch.arange(0), *found]), torch.arange(start, stop))


@given(shape=shapes, limit=st.integers(1, 60))
def test_blocks_follow_one_another(shape: tuple[int, ...], limit: int) -> None:
    whole = torch.arange(prod(shape)).view(shape)
    found = [whole[tuple(slice(low, high) for low, high in box)].flatten() for box in blocks_of(shape, limit)]
    assert all(0 < block.numel() <= limit for block in found)
    assert torch.equal(torch.cat(found), whole.flatten())


class Counted:
    """Reads of a flat tensor, counted."""

    def __init__(self, content: Tensor) -> None:
        self.content, self.sizes = content, list[int]()

    def __call__(self, start: int, count: int) -> Tensor:
        assert start >= 0
        assert start + count <= len(self.content)
        self.sizes.append(count)
        return self.content[start : start + count]


@given(
    sizes=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    data=st.data(),
    cover=st.integers(1, 50),
)
def test_steps_of_any_size_are_read_with_bounded_reads(
    sizes: list[int], data: st.DataObject, cover: int
) -> None:
    strides = data.draw(st.lists(st.integers(1, 40), min_size=len(sizes), max_size=len(sizes)))
    at = Strided(data.draw(st.integers(0, 9)), tuple(sizes), tuple(strides))
    read = Counted(torch.arange(700))
    into = torch.empty(sizes, dtype=torch.int64)
    read_strided(read, at, into, cover)
    assert torch.equal(into, torch.arange(700).as_strided(sizes, strides, at.offset))
    assert all(count <= cover for count in read.sizes)


@given(shape=st.lists(st.integers(0, 300), min_size=2, max_size=2), data=st.data())
def test_a_copy_by_tiles_is_a_copy(shape: list[int], data: st.DataObject) -> None:
    source = torch.arange(2 * prod(shape), dtype=torch.int32).view(shape[0], 2 * shape[1])[:, ::2]
    order = data.draw(st.permutations(range(2)))
    into = torch.empty([shape[d] for d in order], dtype=torch.int64)
    copy(source.permute(*order), into)
    assert torch.equal(into, source.permute(*order).long())


def test_reads_are_few_where_the_parts_are_small_and_exact_where_they_are_large() -> None:
    small = Counted(torch.arange(1000))
    read_strided(small, Strided(0, (10, 10), (1, 100)), torch.empty(10, 10, dtype=torch.int64))
    assert small.sizes == [910]
    large = Counted(torch.arange(1 << 22))
    read_strided(large, Strided(0, (2, 1 << 15), (1 << 21, 1)), torch.empty(2, 1 << 15, dtype=torch.int64))
    assert large.sizes == [1 << 15] * 2


GATE, UP = torch.randn(3, 4), torch.randn(3, 4)
FORMS = (Form("transpose", 1), Form("concat", 2))
PAIR = FusedTensor("gate_up", ("gate", "up"), FORMS)
SHAPES: dict[str, tuple[int, ...]] = {"gate": (3, 4), "up": (3, 4)}

WRONG: dict[str, tuple[FusedTensor, dict[str, tuple[int, ...]], str]] = {
    "the file has another shape": (
        FusedTensor("gate_up", ("gate", "up"), (Form("concat", 2),)),
        SHAPES,
        r"'gate_up' of .*model.safetensors has shape \(4, 6\), \(6, 4\) is needed for gate and 1 more",
    ),
    "a parameter is none of the model": (PAIR, {"gate": (3, 4)}, "'up', which is no parameter"),
    "shapes do not fit": (PAIR, {"gate": (3, 4), "up": (3, 5)}, "cannot be made of its parameters"),
    "a vector is transposed": (PAIR, {"gate": (3,), "up": (3,)}, "no two dims to swap"),
    "a number has no rows": (PAIR, {"gate": (), "up": ()}, "no rows"),
    "too few parameters": (
        FusedTensor("gate_up", ("gate",), (Form("concat", 2),)), SHAPES, "1 parameters for concat of 2",
    ),
    "too many parameters": (
        FusedTensor("gate_up", ("gate", "up"), (Form("transpose", 1),)), SHAPES, "2 parameters in the place",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_what_does_not_fit_is_refused_by_name(fault: str, tmp_path: Path) -> None:
    tensor, known, message = WRONG[fault]
    save_file({"gate_up": torch.cat([GATE, UP]).T.contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(IntegrityError, match=message):
        HuggingFaceReader(tmp_path, WeightMap({}, (tensor,), ()), known)


def test_a_missing_tensor_is_named_with_its_first_parameter(tmp_path: Path) -> None:
    save_file({"other": GATE}, tmp_path / "model.safetensors")
    with pytest.raises(IntegrityError, match="no tensor 'gate_up', which is gate"):
        HuggingFaceReader(tmp_path, WeightMap({}, (PAIR,), ()), SHAPES)


def test_shapes_and_dtypes_of_parts_are_those_of_parameters(tmp_path: Path) -> None:
    save_file({"gate_up": torch.cat([GATE, UP]).T.contiguous()}, tmp_path / "model.safetensors")
    reader = HuggingFaceReader(tmp_path, WeightMap({}, (PAIR,), ()), SHAPES)
    reader.check_against(SHAPES, torch.float32)
    assert sorted(reader.names()) == ["gate", "up"]
    with pytest.raises(IntegrityError, match="is float32, bfloat16 is needed"):
        reader.check_against(SHAPES, torch.bfloat16)
