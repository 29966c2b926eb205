"""A weights directory: complete or not there, and refused where index and files differ."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moec.runtime.abi.buffers import Piece
from moec.runtime.errors import InputOutputError, IntegrityError, InternalError, UserError
from moec.runtime.weights.load import copy_weights, load_shards
from moec.runtime.weights.reader import WeightsReader
from moec.runtime.weights.writer import WeightsWriter, check_replaceable

EMBED = {"embed": torch.randn(5, 3)}
LAYER = {"layers.3.norm": torch.randn(3), "layers.3.attention.q": torch.randn(4, 3)}
SHAPES: dict[str, tuple[int, ...]] = {
    "embed": (5, 3), "layers.3.norm": (3,), "layers.3.attention.q": (4, 3)
}  # fmt: skip


def blocks(tensors: dict[str, Tensor], size: int = 4) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        for begin in range(0, tensor.numel(), size):
            yield name, tensor.flatten()[begin : begin + size]


def put(writer: WeightsWriter, region: str, tensors: dict[str, Tensor]) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    writer.write_region(region, shapes, next(iter(tensors.values())).dtype, blocks(tensors))


def written(directory: Path, part_bytes: int = 1 << 20) -> Path:
    with WeightsWriter(directory, part_bytes=part_bytes) as writer:
        put(writer, "embed", EMBED)
        put(writer, "layers.3", LAYER)
    return directory


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_what_is_written_is_read_by_us_and_by_the_library(tmp_path: Path) -> None:
    directory = written(tmp_path / "weights")
    assert names(directory) == ["embed.safetensors", "layers.00003.safetensors", "weights.json"]
    reader = WeightsReader(directory)
    reader.check_against(SHAPES, torch.float32)
    reader.verify()
    assert list(reader.names()) == list(SHAPES)
    for name, tensor in (EMBED | LAYER).items():
        assert reader.shape(name) == tensor.shape
        assert reader.dtype(name) == torch.float32
        assert torch.equal(reader.read(name, 1, tensor.numel() - 1), tensor.flatten()[1:])
    theirs = load_file(directory / "layers.00003.safetensors")
    assert all(torch.equal(theirs[name], tensor) for name, tensor in LAYER.items())


def test_the_index_says_where_everything_is_and_what_it_weighs(tmp_path: Path) -> None:
    directory = written(tmp_path / "weights")
    index = json.loads((directory / "weights.json").read_text())
    assert (index["format"], index["version"], index["total_bytes"]) == ("moec weights", 1, 4 * (15 + 3 + 12))
    assert index["tensors"]["embed"] == {"file": "embed.safetensors", "dtype": "F32", "shape": [5, 3]}
    for name, entry in index["files"].items():
        content = (directory / name).read_bytes()
        assert entry == {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def test_a_large_region_is_cut_between_tensors(tmp_path: Path) -> None:
    """Parts hold what fits into them; a tensor that fits into none has one of its own."""
    tensors = {f"layers.0.{i}": torch.full((size,), float(i)) for i, size in enumerate((2, 2, 1, 9, 1))}
    with WeightsWriter(tmp_path / "weights", part_bytes=16) as writer:
        put(writer, "layers.0", tensors)
    parts = [f"layers.00000-0000{i}-of-00004.safetensors" for i in range(1, 5)]
    assert names(tmp_path / "weights") == [*parts, "weights.json"]
    held = [list(load_file(tmp_path / "weights" / part)) for part in parts]
    assert held == [["layers.0.0", "layers.0.1"], ["layers.0.2"], ["layers.0.3"], ["layers.0.4"]]
    reader = WeightsReader(tmp_path / "weights")
    assert all(torch.equal(reader.read(n, 0, t.numel()), t) for n, t in tensors.items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_every_float_dtype_keeps_its_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.tensor([1.0, -0.0, torch.inf, torch.nan, 1e-7], dtype=dtype)
    with WeightsWriter(tmp_path / "weights") as writer:
        put(writer, "head", {"norm": values})
    read = WeightsReader(tmp_path / "weights").read("norm", 0, 5)
    assert read.dtype == dtype
    assert torch.equal(read.view(torch.uint8), values.view(torch.uint8))


# --- all or nothing ---


def test_after_a_failure_nothing_is_left_and_what_was_there_still_is(tmp_path: Path) -> None:
    directory = written(tmp_path / "weights")
    before = WeightsReader(directory).read("embed", 0, 15)

    def interrupted() -> None:
        with WeightsWriter(directory) as writer:
            put(writer, "embed", {"embed": torch.zeros(5, 3)})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert names(tmp_path) == ["weights"]
    assert torch.equal(WeightsReader(directory).read("embed", 0, 15), before)


def test_nothing_takes_the_name_before_the_end(tmp_path: Path) -> None:
    with WeightsWriter(tmp_path / "weights") as writer:
        put(writer, "embed", EMBED)
        assert not (tmp_path / "weights").exists()
        (partial,) = names(tmp_path)
        assert partial.startswith(".weights.")
    assert names(tmp_path) == ["weights"]


def test_older_weights_are_replaced_whole(tmp_path: Path) -> None:
    directory = written(tmp_path / "weights")
    with WeightsWriter(directory) as writer:
        put(writer, "head", {"norm": torch.ones(2)})
    assert names(tmp_path) == ["weights"]
    assert names(directory) == ["head.safetensors", "weights.json"]


def test_an_empty_directory_and_a_link_to_one_are_filled(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "weights").symlink_to(tmp_path / "disk")
    written(tmp_path / "weights")
    assert (tmp_path / "weights").is_symlink()
    assert names(tmp_path / "disk") == names(written(tmp_path / "weights"))


def test_what_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "weights.json").write_text('{"format": "of somebody else"}')
    mixed = written(tmp_path / "mixed")
    (mixed / "notes.txt").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name, message in {
        "file": "exists and is no directory",
        "full": "it holds 'thesis.tex'",
        "other": "not the index of a weights directory",
        "mixed": "it holds 'notes.txt'",
        "dangling": "exists and is no directory",
        "none/weights": "there is no directory",
    }.items():
        with pytest.raises(UserError, match=message):
            check_replaceable(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    for name in ("file", "full", "other", "mixed", "none/weights"):
        with pytest.raises(UserError):
            WeightsWriter(tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_second_rename_that_fails_brings_the_old_weights_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = written(tmp_path / "weights")
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputOutputError, match=r"cannot write .*weights: Input/output error"):
        written(directory)
    assert names(tmp_path) == ["weights"]
    WeightsReader(directory).check_against(SHAPES)


def test_a_full_disk_is_an_input_output_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputOutputError, match="No space left on device"):
        written(tmp_path / "weights")
    assert names(tmp_path) == []


def test_values_that_do_not_make_up_the_tensors_are_refused(tmp_path: Path) -> None:
    one, two = {"a": torch.ones(2)}, {"a": torch.ones(2), "b": torch.ones(2)}
    cases: list[tuple[dict[str, tuple[int, ...]], dict[str, Tensor], str]] = [
        ({"a": (3,)}, one, "1 values of torch.float32 are missing, and 0 of .* come for nothing"),
        ({"a": (1,)}, one, "1 values of .* are missing, and 2 of .* come for a"),
        ({"b": (2,), "a": (2,)}, two, "b: 2 values .* come for a"),
        ({"a": (2,)}, two, "values of b are left"),
        ({"a": (2,)}, {"a": torch.ones(2, dtype=torch.float64)}, "2 of torch.float64 come for a"),
    ]
    for shapes, tensors, message in cases:
        with pytest.raises(InternalError, match=message), WeightsWriter(tmp_path / "weights") as writer:
            writer.write_region("embed", shapes, torch.float32, blocks(tensors))
    for region in ("", "../x", "layers/3", "layers.x", "Embed"):
        with (
            pytest.raises(InternalError, match="no name of a region"),
            WeightsWriter(tmp_path / "w") as writer,
        ):
            writer.write_region(region, {"a": (2,)}, torch.float32, blocks(one))
    assert names(tmp_path) == []


def test_a_name_is_written_once(tmp_path: Path) -> None:
    with WeightsWriter(tmp_path / "weights") as writer:
        put(writer, "embed", EMBED)
        with pytest.raises(InternalError, match="embed is written twice"):
            put(writer, "head", EMBED)


# --- index and files ---


def change_index(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def apply(directory: Path) -> None:
        index = json.loads((directory / "weights.json").read_text())
        change(index)
        (directory / "weights.json").write_text(json.dumps(index))

    return apply


def change_file(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    """Write the layer's file again, and its new size into the index."""

    def apply(directory: Path) -> None:
        path = directory / "layers.00003.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        size = {"size_bytes": path.stat().st_size}
        change_index(lambda index: index["files"]["layers.00003.safetensors"].update(size))(directory)

    return apply


def rename_file(new: str) -> Callable[[dict[str, Any]], object]:
    return lambda index: index["files"].update({new: index["files"].pop("embed.safetensors")})


LAYER_FILE = "layers.00003.safetensors"
NORM = "layers.3.norm"
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file missing": (lambda d: (d / LAYER_FILE).unlink(), "layers.00003.safetensors is missing"),
    "a file truncated": (lambda d: os.truncate(d / LAYER_FILE, 200), "layers.00003.safetensors is truncated"),
    "a file grown": (
        lambda d: (d / LAYER_FILE).write_bytes((d / LAYER_FILE).read_bytes() + b"x"),
        "layers.00003.safetensors is changed",
    ),
    "a tensor missing": (
        change_file(lambda t: t.pop(NORM)),
        "layers.00003.safetensors has no tensor 'layers.3.norm'",
    ),
    "a tensor more": (
        change_file(lambda t: t.update(x=torch.ones(1))),
        "has a tensor 'x', which the index does not say is there",
    ),
    "a tensor in two files": (
        change_file(lambda t: t.update(EMBED)),
        "layers.00003.safetensors has a tensor 'embed', which the index does not say is there",
    ),
    "another shape": (
        change_file(lambda t: t.update({NORM: torch.ones(1, 3)})),
        r"'layers.3.norm' is F32 \(1, 3\) in layers.00003.safetensors, but F32 \(3,\) in the index",
    ),
    "another dtype": (change_file(lambda t: t.update({NORM: t[NORM].half()})), r"is F16 \(3,\) in layers"),
    "a path for a file": (
        change_index(rename_file("../embed.safetensors")),
        r"'../embed.safetensors' is not",
    ),
    "an absolute path": (change_index(rename_file("/etc/x.safetensors")), "is not the name of a safetensors"),
    "a hidden file": (change_index(rename_file(".x.safetensors")), "is not the name of a safetensors"),
    "a file of another kind": (change_index(rename_file("passwd")), "'passwd' is not the name"),
    "no such file in the index": (
        change_index(lambda i: i["files"].pop("embed.safetensors")),
        "a tensor is in 'embed.safetensors', which is none of its files",
    ),
    "a key more": (change_index(lambda i: i.update(x=1)), "its keys are not those of an index"),
    "a list of files": (change_index(lambda i: i.update(files=[])), "of the wrong type"),
    "no digest": (
        change_index(lambda i: i["files"]["embed.safetensors"].update(sha256="abc")),
        "embed.safetensors is not described by a size and a SHA-256",
    ),
    "a shape of texts": (
        change_index(lambda i: i["tensors"]["embed"].update(shape=["5"])),
        "'embed' is not described by a file, a dtype and a shape",
    ),
    "no JSON": (lambda d: (d / "weights.json").write_text("{"), "not valid JSON"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_directory_is_refused_with_file_and_tensor(tmp_path: Path, case: str) -> None:
    damage, message = DAMAGED[case]
    damage(written(tmp_path / "weights"))
    with pytest.raises(IntegrityError, match=message):
        WeightsReader(tmp_path / "weights")


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_is_found_by_its_digest(tmp_path: Path) -> None:
    directory = written(tmp_path / "weights")
    flip_last_bit(directory / LAYER_FILE)
    reader = WeightsReader(directory)
    reader.verify(["embed.safetensors"])
    with pytest.raises(IntegrityError, match=r"layers.00003.safetensors is damaged"):
        reader.verify()


def test_ranks_share_the_files_to_verify(tmp_path: Path) -> None:
    """Each file falls to one of them."""
    reader = WeightsReader(written(tmp_path / "weights"))
    flip_last_bit(tmp_path / "weights" / reader.files()[0])
    reader.verify_share(1, 2)
    for rank, world in ((0, 2), (0, 1)):
        with pytest.raises(IntegrityError, match="is damaged"):
            reader.verify_share(rank, world)


def test_other_weights_have_another_fingerprint(tmp_path: Path) -> None:
    one, same = (WeightsReader(written(tmp_path / name)).fingerprint() for name in "ab")
    with WeightsWriter(tmp_path / "c") as writer:
        put(writer, "embed", {"embed": torch.arange(6.0)})
    assert one == same != WeightsReader(tmp_path / "c").fingerprint()


def test_other_directories_and_versions_are_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no weights"):
        WeightsReader(tmp_path)
    directory = written(tmp_path / "weights")
    change_index(lambda index: index.update(version=2))(directory)
    with pytest.raises(UserError, match="has version '2'; version 1 can be read"):
        WeightsReader(directory)


# --- what is expected ---


def test_differences_to_what_is_expected_are_listed_and_counted(tmp_path: Path) -> None:
    reader = WeightsReader(written(tmp_path / "weights"))
    with pytest.raises(IntegrityError) as failure:
        reader.check_against({"embed": (3, 5), "layers.3.norm": (3,), "logits": (1,)})
    message = str(failure.value)
    assert f"'layers.3.attention.q' of {tmp_path}/weights/layers.00003.safetensors is no parameter" in message
    assert f"'embed' of {tmp_path}/weights/embed.safetensors has shape (5, 3), (3, 5) is needed" in message
    assert "has no tensor 'logits'" in message
    with pytest.raises(IntegrityError, match=r"and 7 more$"):
        reader.check_against(SHAPES | {f"x.{i}": (1,) for i in range(12)})


@pytest.mark.parametrize(
    ("stored", "wanted", "exact"),
    [
        (torch.bfloat16, torch.float32, True),
        (torch.float16, torch.float32, True),
        (torch.float32, torch.float64, True),
        (torch.float32, torch.float32, True),
        (torch.float16, torch.bfloat16, False),
        (torch.bfloat16, torch.float16, False),
        (torch.float32, torch.bfloat16, False),
        (torch.float64, torch.float32, False),
    ],
)
def test_floats_widen_and_are_rounded_only_if_asked(
    tmp_path: Path, stored: torch.dtype, wanted: torch.dtype, exact: bool
) -> None:
    values = torch.randn(6).to(stored)
    with WeightsWriter(tmp_path / "weights") as writer:
        put(writer, "embed", {"embed": values})
    reader = WeightsReader(tmp_path / "weights")
    whole, into = [Piece("embed", (6,), 0, 6, 0, "normal")], torch.empty(6, dtype=wanted)
    if exact:
        load_shards(reader, whole, into)
        assert torch.equal(into, values.to(wanted))
        assert torch.equal(into.to(stored), values)
    else:
        message = f"is {str(stored)[6:]}, {str(wanted)[6:]} is needed"
        with pytest.raises(IntegrityError, match=message):
            load_shards(reader, whole, into)
        with pytest.raises(IntegrityError, match=message):
            reader.check_against({"embed": (6,)}, wanted)
        reader.check_against({"embed": (6,)}, wanted, cast=True)
        load_shards(reader, whole, into, cast=True)
        assert torch.equal(into, values.to(wanted))


def test_integers_are_no_weights_even_if_asked(tmp_path: Path) -> None:
    with WeightsWriter(tmp_path / "weights") as writer:
        put(writer, "embed", {"embed": torch.arange(6)})
    with pytest.raises(IntegrityError, match="is int64, float32 is needed"):
        WeightsReader(tmp_path / "weights").check_against({"embed": (6,)}, torch.float32, cast=True)


def test_a_piece_of_another_shape_is_refused(tmp_path: Path) -> None:
    reader = WeightsReader(written(tmp_path / "weights"))
    with pytest.raises(
        IntegrityError, match=r"'embed' of .* has shape \(5, 3\), \(3, 5\) is needed for embed"
    ):
        load_shards(reader, [Piece("embed", (3, 5), 0, 15, 0, "normal")], torch.empty(15))


def test_a_file_that_shrinks_while_it_is_read_is_an_error_with_its_name(tmp_path: Path) -> None:
    directory = written(tmp_path / "weights")
    reader = WeightsReader(directory)
    os.truncate(directory / "embed.safetensors", 120)
    with pytest.raises(IntegrityError, match=r"embed.safetensors ends at byte 120"):
        reader.read("embed", 0, 15)


def test_weights_are_copied_in_another_dtype(tmp_path: Path) -> None:
    reader = WeightsReader(written(tmp_path / "weights"))
    layer = {name: SHAPES[name] for name in LAYER}
    regions = {"embed": {"embed": SHAPES["embed"]}, "layers.3": layer}
    copy_weights(reader, tmp_path / "wide", regions, torch.float64)
    shutil.rmtree(tmp_path / "weights")
    copied = WeightsReader(tmp_path / "wide")
    copied.verify()
    for name, tensor in (EMBED | LAYER).items():
        assert torch.equal(copied.read(name, 0, tensor.numel()), tensor.flatten().double())
    with pytest.raises(IntegrityError, match="float64, float32 is needed"):
        copy_weights(copied, tmp_path / "narrow", regions, torch.float32)
    assert names(tmp_path) == ["wide"]
