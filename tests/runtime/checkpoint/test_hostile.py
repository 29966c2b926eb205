"""Checkpoints by strangers, with digests that fit: refused by name, without executing or allocating."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from checkpoint_states import save, state_of
from moec.runtime.abi.bundle import with_digest
from moec.runtime.abi.codec import dump
from moec.runtime.abi.mesh import Mesh
from moec.runtime.checkpoint.inspect import problems
from moec.runtime.checkpoint.load import Checkpoint, load_state
from moec.runtime.checkpoint.manifest import MAX_BYTES
from moec.runtime.errors import IntegrityError

ONE = Mesh(1, 1, 1, 1)
SHARD = "parameter-00000.safetensors"
MOST_BYTES = 24 << 20
"""Beside some times the manifest, which is read whole, up to its limit."""

Data = dict[str, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint. Nobody changes it."""
    root = tmp_path_factory.mktemp("run")
    save(root, ONE, 5)
    return root / "step-00000005"


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(written, tmp_path / written.name))


def rewritten(folder: Path, change: Callable[[Data], object]) -> None:
    """Change the manifest, and give it the digest that belongs to it now."""
    data = json.loads((folder / "manifest.json").read_bytes())
    change(data)
    (folder / "manifest.json").write_bytes(dump(with_digest(data)))


def loaded(folder: Path) -> None:
    """What `--resume` does."""
    checkpoint = Checkpoint(folder)
    checkpoint.verify_share(0, 1)
    load_state(state_of(ONE, 0), checkpoint)


def refused(folder: Path) -> str:
    """What a reader says, who loads all that is there; within memory and time."""
    tracemalloc.start()
    began_s = time.perf_counter()
    try:
        with pytest.raises(IntegrityError) as caught:
            loaded(folder)
        size_bytes = min((folder / "manifest.json").stat().st_size, MAX_BYTES)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES + 8 * size_bytes
        assert time.perf_counter() - began_s < 20
    finally:
        tracemalloc.stop()
    assert [*problems(folder)], "verify does not see it"
    message = str(caught.value)
    assert message.isprintable() or "\n" in message
    assert len(message) < 2000
    return message


def test_a_manifest_that_is_rewritten_with_its_digest_is_read(folder: Path) -> None:
    """The tests below fail for what they say, not because of how they rewrite."""
    rewritten(folder, lambda data: data | {})
    assert [*problems(folder)] == []


def entry(data: Data) -> Data:
    found: Data = data["files"][SHARD]
    return found


def named(name: str) -> Callable[[Data], object]:
    """A file under another name."""

    def change(data: Data) -> None:
        data["files"] = {(name if key == SHARD else key): file for key, file in data["files"].items()}

    return change


def sliced(index: int, text: str) -> Callable[[Data], object]:
    """Another text in the place of a slice."""
    return lambda data: entry(data)["slices"].__setitem__(index, text)


CHANGES: dict[str, tuple[Callable[[Data], object], str]] = {
    "path upwards": (named("../../../etc/passwd"), "is not the name of a file"),
    "path upwards with the right end": (named("../parameter-00000.safetensors"), "is not the name"),
    "absolute path": (named("/etc/parameter-00000.safetensors"), "is not the name"),
    "path downwards": (named("a/parameter-00000.safetensors"), "is not the name"),
    "name of code": (named("__import__('os').system('x').safetensors"), "is not the name"),
    "name with a terminal's escape": (named("\x1b]0;x\x07.safetensors"), "is no printable text"),
    "empty name": (named(""), "is not the name"),
    "the manifest as one of its files": (named("manifest.json"), "is not the name"),
    "a pickle": (named("data.pkl"), "is not the name"),
    "no model": (lambda d: d["files"].pop("model.moe"), "model.moe"),
    "a digest that is none": (lambda d: entry(d).update(sha256="0"), "not described by a size and a SHA-256"),
    "another digest": (lambda d: entry(d).update(sha256="0" * 64), "is damaged: its SHA-256"),
    "a negative size": (lambda d: entry(d).update(size_bytes=-1), "not described"),
    "a huge size": (lambda d: entry(d).update(size_bytes=1 << 80), "is truncated"),
    "a size that is a float": (lambda d: entry(d).update(size_bytes=1e3), "expected int"),
    "a size that is true": (lambda d: entry(d).update(size_bytes=True), "expected int"),
    "slices that are none": (lambda d: entry(d).update(slices=None), "expected a list"),
    "slices that are numbers": (lambda d: entry(d).update(slices=[1, 2]), "expected str"),
    "a slice of nothing": (sliced(0, "parameter/embed[0:0]"), "no slice of a parameter"),
    "a slice backwards": (sliced(0, "parameter/embed[4:2]"), "no slice of a parameter"),
    "a huge slice": (sliced(0, "parameter/embed[0:999999999999999999]"), "has 42 elements"),
    "a slice of what is none": (sliced(0, "parameter/x[0:42]"), "is no parameter"),
    "a slice of gradients": (sliced(0, "gradient/embed[0:42]"), "no slice of a parameter"),
    "a slice that overlaps": (sliced(1, "parameter/embed[41:42]"), "are there twice"),
    "a slice too few": (lambda d: entry(d)["slices"].pop(), "are missing"),
    "a slice twice": (lambda d: entry(d)["slices"].append(entry(d)["slices"][0]), "are there twice"),
    "many slices": (
        lambda d: entry(d).update(slices=entry(d)["slices"] * 2_000), "more slices than it has room"),
    "slices in another order": (lambda d: entry(d)["slices"].reverse(), "are not the slices"),
    "a huge shape": (lambda d: d["parameters"]["embed"].update(shape=[1 << 40] * 3), "are missing"),
    "a shape past all tensors": (lambda d: d["parameters"]["embed"].update(shape=[1 << 61]), "no tensor"),
    "a shape of many dims": (lambda d: d["parameters"]["embed"].update(shape=[1] * 10_000), "no tensor"),
    "a negative shape": (lambda d: d["parameters"]["embed"].update(shape=[-6, -7]), "no tensor"),
    "a shape that is a text": (lambda d: d["parameters"]["embed"].update(shape="42"), "expected a list"),
    "a parameter too many": (
        lambda d: d["parameters"].update(x={"shape": [1], "trained": False}), "are missing"),
    "a parameter that is not trained": (
        lambda d: d["parameters"]["embed"].update(trained=False), "is not trained, and there is"),
    "a step that is none": (lambda d: d.update(step=-1), "not those of a run"),
    "a huge step": (lambda d: d.update(step=1 << 70, steps=1 << 70), "not those of a run"),
    "a step past the end": (lambda d: d.update(step=101), "not those of a run"),
    "negative sequences": (lambda d: d["data"].update(sequences=-4), "not those of a run"),
    "a mesh of no ranks": (lambda d: d["mesh"].update(shard=0), "at least 1"),
    "a mesh of a text": (lambda d: d["mesh"].update(shard="1"), "expected int"),
    "another format": (lambda d: d.update(format="moec bundle"), "is not the manifest of a checkpoint"),
    "another version": (lambda d: d.update(version=2), "has version '2'"),
    "a version of rubbish": (lambda d: d.update(version={"x": "\x1b[2J" * 99}), "has version"),
    "an unknown key": (lambda d: d.update(code="import os"), "unknown keys"),
    "a missing key": (lambda d: d.pop("seed"), "missing keys"),
    "facts that are numbers": (lambda d: d["facts"].update(width=6), "expected str"),
}  # fmt: skip


@pytest.mark.parametrize("case", CHANGES)
def test_a_manifest_that_lies_is_refused(folder: Path, case: str) -> None:
    change, message = CHANGES[case]
    rewritten(folder, change)
    assert message in refused(folder)


def text_of(folder: Path) -> str:
    return (folder / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda text: text.replace('"step": 5', '"step": 5, "step": 6'), "a key stands twice"),
        (lambda text: text.replace('"step": 5', '"step": NaN'), "is no number"),
        (lambda text: text.replace('"step": 5', '"step": Infinity'), "is no number"),
        (lambda text: text.replace('"step": 5', '"step": 1e999'), "too large"),
        (lambda text: text.replace('"step": 5', f'"step": {"9" * 5000}'), "JSON"),
        (lambda text: text.replace('"step": 5', '"step": ' + "[" * 500 + "]" * 500), "nested deeper"),
        (lambda text: "[" * 200_000, "not valid JSON"),
        (lambda text: "{}", "is not the manifest"),
        (lambda text: "[]", "is not the manifest"),
        (lambda text: "", "not valid JSON"),
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: "\udcff".encode(errors="surrogateescape"), "not valid JSON"),
        (lambda text: text.replace("\n", ""), "is damaged"),
        (lambda text: text.replace('"digest"', '"digests"'), "is damaged"),
        (lambda text: text + " ", "is damaged"),
    ],
)  # fmt: skip
def test_json_that_is_none_is_refused(
    folder: Path, content: Callable[[str], str | bytes], message: str
) -> None:
    made = content(text_of(folder))
    (folder / "manifest.json").write_bytes(made if isinstance(made, bytes) else made.encode())
    assert message in refused(folder)


def test_a_manifest_of_a_size_that_none_has_is_not_read(folder: Path) -> None:
    with (folder / "manifest.json").open("r+b") as file:
        file.truncate(1 << 40)  # a hole
    assert "at most 67108864 are read" in refused(folder)


def replaced(folder: Path, header: bytes, length: int | None = None, data: bytes | None = None) -> None:
    """Another header in a shard, with size and digest that fit."""
    path = folder / SHARD
    old = path.read_bytes()
    kept = old[8 + int.from_bytes(old[:8], "little") :] if data is None else data
    size = len(header) if length is None else length
    path.write_bytes(size.to_bytes(8, "little") + header + kept)
    content = path.read_bytes()
    facts = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    rewritten(folder, lambda manifest: entry(manifest).update(facts))


def header_of(folder: Path) -> Data:
    content = (folder / SHARD).read_bytes()
    found: Data = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return found


def tensor(change: Data) -> Callable[[Data], object]:
    return lambda header: header["parameter/embed[0:42]"].update(change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (tensor({"dtype": "I32"}), "which no state is"),
        (tensor({"dtype": "F8_E4M3", "shape": [168]}), "F8_E4M3"),
        (tensor({"dtype": "PICKLE"}), "no dtype"),
        (tensor({"shape": [6, 7]}), "(6, 7)"),
        (tensor({"shape": [1 << 50]}), "does not fill"),
        (tensor({"data_offsets": [-168, 0]}), "before it"),
        (tensor({"data_offsets": [0, 1 << 60]}), "does not fill"),
        (tensor({"code": "x"}), "not described"),
        (lambda header: header.update(x={"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}), "not the"),
        (lambda header: header.pop("parameter/embed[0:42]"), "leaves a gap"),
    ],
)  # fmt: skip
def test_a_shard_that_lies_is_refused(folder: Path, change: Callable[[Data], object], message: str) -> None:
    header = header_of(folder)
    change(header)
    replaced(folder, json.dumps(header).encode())
    found = refused(folder)
    assert message in found
    assert SHARD in found


@pytest.mark.parametrize(
    ("header", "length", "message"),
    [
        (b" " * (8 << 20), None, "its header would have"),
        (b"{}", 1 << 62, "its header would have"),
        (b"{" * 5000, None, "not valid JSON"),
        (b'{"a": 1, "a": 2}', None, "a key stands twice"),
        (b"", None, "not valid JSON"),
    ],
)
def test_a_header_that_is_none_is_refused(
    folder: Path, header: bytes, length: int | None, message: str
) -> None:
    replaced(folder, header, length)
    found = refused(folder)
    assert message in found
    assert SHARD in found


def test_a_model_that_is_no_text_is_refused_where_it_is_read(folder: Path) -> None:
    (folder / "model.moe").write_bytes(b"\xff" * 15)
    content = (folder / "model.moe").read_bytes()
    facts = {"size_bytes": 15, "sha256": hashlib.sha256(content).hexdigest()}
    rewritten(folder, lambda data: data["files"]["model.moe"].update(facts))
    with pytest.raises(IntegrityError, match="is no text"):
        Checkpoint(folder).source()
