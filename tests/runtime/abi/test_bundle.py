"""Bundles: data that is read back equal, written whole or not at all, and refused when it is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import Compiled, compile_spec
from moec.runtime.abi import bundle as bundles
from moec.runtime.abi.bundle import NotABundleError, read_bundle, read_manifest, write_bundle
from moec.runtime.abi.codec import FormatError, dump
from moec.runtime.abi.manifest import VERSION
from sealed_bundles import edit, seal
from small_models import small_spec

FILES = ("checkpoint.json", "listing.txt", "manifest.json", "model.moe", "programs.json")


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_spec(small_spec("gated", expert=2, shard=2, replicate=2))


@pytest.fixture
def path(compiled: Compiled, tmp_path: Path) -> Path:
    """A good bundle."""
    save(compiled, tmp_path / "bundle")
    return tmp_path / "bundle"


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


# --- round trip ---


def test_a_bundle_is_read_back_equal(compiled: Compiled, tmp_path: Path) -> None:
    digest = save(compiled, tmp_path / "made" / "bundle")
    found = read_bundle(tmp_path / "made" / "bundle")
    assert dict(found.programs) == compiled.programs
    assert found.source == compiled.spec.text
    assert found.digest == digest
    assert found.manifest.mesh == compiled.plan.mesh
    assert found.manifest.buffers == compiled.plan.buffers
    assert read_manifest(tmp_path / "made" / "bundle") == found.manifest


def test_a_bundle_holds_the_files_that_it_says_and_anyone_may_read_them(path: Path) -> None:
    assert tuple(sorted(content(path))) == FILES
    assert path.stat().st_mode & 0o777 == 0o755


def test_the_same_compilation_makes_the_same_bytes(compiled: Compiled, path: Path, tmp_path: Path) -> None:
    again = compile_spec(compiled.spec)
    save(again, tmp_path / "again")
    assert content(tmp_path / "again") == content(path)


def test_write_of_what_was_read_changes_nothing(path: Path, tmp_path: Path) -> None:
    found = read_bundle(path)
    write_bundle(tmp_path / "copy", found.manifest, found.programs, found.checkpoint, found.source)
    assert content(tmp_path / "copy") == content(path)


# --- damage ---


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_damage(path: Path, name: str, keep: float) -> None:
    raw = (path / name).read_bytes()
    (path / name).write_bytes(raw[: int(len(raw) * keep)])
    if raw[: int(len(raw) * keep)] == raw:
        (path / name).write_bytes(b" ")  # an empty file is cut short by nothing
    with pytest.raises(FormatError) as error:
        read_bundle(path)
    assert error.value.exit_code == 76


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_anywhere_is_damage(path: Path, name: str) -> None:
    """A flip in the manifest can make it the manifest of something else."""
    raw = (path / name).read_bytes()
    for at in range(0, len(raw), max(1, len(raw) // 40)):
        (path / name).write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        found = outcome(path)
        assert found in ((76, 1) if name == "manifest.json" else (76,))


def test_a_number_changed_in_the_manifest_alone_is_damage(path: Path) -> None:
    """However legal it is."""
    file = path / "manifest.json"
    file.write_text(file.read_text().replace('"lr": 0.01', '"lr": 0.02'))
    for read in (read_bundle, read_manifest):
        with pytest.raises(FormatError, match=r"manifest\.json is damaged: its content") as error:
            read(path)
        assert error.value.exit_code == 76
    file.write_text(file.read_text().replace('"lr": 0.02', '"lr": 0.01'))
    assert read_bundle(path).manifest.training.lr == 0.01


def outcome(path: Path) -> str | int:
    """The digest of a bundle, or the exit code of why it has none."""
    try:
        return read_bundle(path).digest
    except FormatError as error:
        return error.exit_code


@pytest.mark.parametrize("name", sorted(set(FILES) - {"manifest.json"}))
def test_a_missing_file_is_damage_and_is_named(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(FormatError, match=rf"{name} is missing") as error:
        read_bundle(path)
    assert error.value.exit_code == 76


@pytest.mark.parametrize("name", sorted(set(FILES) - {"manifest.json"}))
def test_what_is_no_file_is_not_opened(path: Path, name: str) -> None:
    """A pipe in the place of a file would keep a reader waiting for ever."""
    (path / name).unlink()
    os.mkfifo(path / name)
    with pytest.raises(FormatError, match=rf"{name} is missing"):
        read_bundle(path)


def test_a_file_beyond_its_limit_is_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bundles._LIMITS_BYTES, "model.moe", 10)
    with pytest.raises(FormatError, match=r"model\.moe is larger than 10 bytes"):
        read_bundle(path)


def training(**changed: Any) -> Callable[[Any], None]:
    return lambda m: m["training"].update(changed)


def schedule(**changed: Any) -> Callable[[Any], None]:
    return lambda m: m["training"]["schedule"].update(changed)


def buffer(**changed: Any) -> Callable[[Any], None]:
    return lambda m: m["buffers"]["layer_0"][1].update(changed)


def slot(number: int, **changed: Any) -> Callable[[Any], None]:
    return lambda m: m["buffers"]["layer_0"][1]["slots"][number].update(changed)


def expert_slot(**changed: Any) -> Callable[[Any], None]:
    return lambda m: m["buffers"]["layer_0"][2]["slots"][0].update(changed)


NUMBERS: list[tuple[Callable[[Any], None], str]] = [
    (lambda m: m.update(vocab=0), r"\.vocab: 0 is not in 1\.\."),
    (lambda m: m.update(parameters=10**20), r"\.parameters: 1e\+20 is not in"),
    (lambda m: m.update(sequences=0), r"\.sequences: 0 is not in 1\.\."),
    (lambda m: m.update(sequences=3), r"\.sequences: the batch gives a rank 2"),
    (lambda m: m.update(init_std=-1.0), r"\.init_std: -1 is not in 0\.\."),
    (lambda m: m["mesh"].update(replicate=10**9), r"\.mesh: ranks: "),
    (training(sequence=0), r"training\.sequence: 0 is not in"),
    (training(sequence=13), r"training\.sequence: longer than context"),
    (training(batch_sequences=-1), r"training\.batch_sequences: -1 is not in"),
    (training(micro_batches=0), r"training\.micro_batches: 0 is not in"),
    (training(micro_batches=99), r"training\.micro_batches: more than the sequences"),
    (training(steps=0), r"training\.steps: 0 is not in"),
    (training(steps=None), r"training\.steps: exactly one of steps and epochs"),
    (training(epochs=3), r"training\.steps: exactly one of steps and epochs"),
    (training(steps=None, epochs=0), r"training\.epochs: 0 is not in"),
    (training(lr=-1e-3), r"training\.lr: -0\.001 is not in"),
    (training(seed=-1), r"training\.seed: -1 is not in"),
    (schedule(warmup=-5), r"schedule\.warmup: -5 is not in"),
    (schedule(floor=1.5), r"schedule\.floor: 1\.5 is not in 0\.\.1"),
    (buffer(ranks=0), r"layer_0\[1\]\.ranks: shard has 2 ranks"),
    (buffer(ranks=4), r"layer_0\[1\]\.ranks: shard has 2 ranks"),
    (buffer(numel=10**14), r"layer_0\[1\]\.numel: slots in 2 equal shards need \d+"),
    (buffer(shard_axis="world"), r"layer_0\[1\]\.shard_axis: no layout has these axes"),
    (buffer(replica_axis="data"), r"layer_0\[1\]\.shard_axis: no layout has these axes"),
    (buffer(expert_axis="expert"), r"layer_0\[1\]\.shard_axis: no layout has these axes"),
    (buffer(trained=False), r"layer_0\[1\]\.shard_axis: no layout has these axes"),
    (buffer(owner="nobody"), r"layer_0\[1\]\.owner: no region is called so"),
    (buffer(owner="embed"), r"layer_0\[1\]\.owner: it has another buffer"),
    (buffer(name="vectors"), r"buffers\.layer_0: a name stands twice"),
    (buffer(slots=[], numel=0), r"layer_0\[1\]\.numel: 0 is not in"),
    (slot(1, offset=0), r"slots\[1\]\.offset: the slot before it ends at"),
    (slot(0, offset=-2), r"slots\[0\]\.offset: the slot before it ends at 0"),
    (slot(0, shape=[]), r"slots\[0\]\.shape: 1 to 8 dims"),
    (slot(0, shape=[-16, -16]), r"slots\[0\]\.shape: -16 is not in"),
    (slot(0, shape=[2**50, 2**50]), r"slots\[0\]\.shape: "),
    (slot(0, local=4), r"slots\[0\]\.local: a rank has 1"),
    (slot(0, experts=4), r"slots\[0\]\.experts: not as the buffer's axes say"),
    (slot(0, path="a.{}"), r"slots\[0\]\.path: a name with `\{\}` 0 times"),
    (expert_slot(local=1), r"slots\[0\]\.local: a rank has 2"),
    (expert_slot(experts=0), r"slots\[0\]\.experts: 0 is not in"),
    (expert_slot(path="e.{:>999999999}.w"), r"slots\[0\]\.path: a name with `\{\}` 1 times"),
    (lambda m: m["losses"].pop(), r"manifest\.json\.losses: 3 numbers, and step gives 4"),
    (lambda m: m["losses"].remove("loss"), r"\.losses: there is no loss"),
    (lambda m: m["loads"].pop(), r"manifest\.json\.loads: 4 numbers, and step gives 8"),
    (lambda m: m["loads"].append(m["loads"][0]), r"\.loads: a name stands twice"),
    (lambda m: m["loads"][0].__setitem__(1, -1), r"\.loads\[0\]: -1 is not in"),
    (lambda m: m["chain"].append(m["chain"][0]), r"\.chain: a name stands twice"),
]
LEGIBLE: list[tuple[Callable[[Any], None], str]] = [
    (lambda m: m.update(model="\x1b[2J"), r"\.model: '\\x1b\[2J' is no printable text"),
    (lambda m: m["losses"].append("\r"), r"\.losses\[4\]: '\\r' is no printable text"),
    (lambda m: m["options"].update({"\x9b": ""}), r"\.options: '\\x9b' is no printable text"),
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("mesh"), r"missing keys \['mesh'\]"),
        (lambda m: m.update(code="import os"), r"unknown keys \['code'\]"),
        (lambda m: m["files"].update({"../x": "0"}), "files are not those of a bundle"),
        (lambda m: m["files"].pop("model.moe"), "files are not those of a bundle"),
        (lambda m: m["mesh"].update(expert=3), "does not divide 4 ranks"),
        (lambda m: m["mesh"].update(shard=0), "degrees are at least 1"),
        (lambda m: m.update(dtype="float16"), "expected one of"),
        (lambda m: m.update(init_std=True), "expected a number"),
        (lambda m: m["chain"].append(["layers.9", "layer_9"]), "no buffers of 'layer_9'"),
        (lambda m: m["chain"].append(["layers.9", "layer_0"]), "step does not take the state"),
        (lambda m: m["training"]["schedule"].update(kind="eval"), "expected one of"),
        *NUMBERS,
        *LEGIBLE,
    ],
)
def test_a_manifest_that_breaks_a_rule_is_damage(
    path: Path, change: Callable[[Any], None], message: str
) -> None:
    edit(path, change)
    with pytest.raises(FormatError, match=message) as error:
        read_bundle(path)
    assert error.value.exit_code == 76


def mapped(*fused: tuple[str, list[str], list[tuple[str, int]]], **rest: object) -> dict[str, bytes]:
    """A checkpoint.json with these tensors of several parameters: name, parameters, forms."""
    made = [
        {"name": name, "parameters": parts, "forms": [{"kind": kind, "count": n} for kind, n in forms]}
        for name, parts, forms in fused
    ]
    return {"checkpoint_json": dump({"tensors": {}, "fused": made, "ignored": []} | rest)}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"programs_json": b"[]"}, "expected an object with places and programs"),
        ({"programs_json": b'{"places": [], "programs": []}'}, "no program named step"),
        ({"programs_json": b"[" * 100_000}, "not valid JSON"),
        ({"programs_json": b'{"places": [], "places": [], "programs": []}'}, "a key stands twice"),
        ({"programs_json": b'{"places": [], "programs": [NaN]}'}, "NaN is no number"),
        (mapped(tensors={"a": 1}), r"tensors\.a: expected str"),
        (mapped(tensors={"a": "t", "b": "t"}), "a tensor stands twice: 't'"),
        (mapped(("t", ["a"], [])), "'t' has 0 forms, not 1 to 16"),
        (mapped(("t", ["a"], [("stack", 1)] * 17)), "'t' has 17 forms"),
        (mapped(("t", ["a"], [("fold", 1)])), r"fused\[0\]\.forms\[0\]\.kind: expected one of"),
        (mapped(("t", [], [("stack", 0)])), "'t' has stack of 0"),
        (mapped(("t", ["a"], [("stack", -1), ("concat", -1)])), "'t' has stack of -1"),
        (mapped(("t", ["a", "b"], [("transpose", 2)])), "'t' has transpose of 2"),
        (mapped(("t", ["a"], [("concat", 2)])), "'t' is made of 1 parameters, and its forms take another"),
        (mapped(("t", ["a"], [("concat", 1 << 24)] * 16)), "its forms take another number"),
        (mapped(("t", ["a"], [("concat", 1 << 25)])), "'t' has concat of 33554432"),
        (mapped(("t", ["a", "a"], [("concat", 2)])), "a parameter stands twice: 'a'"),
        (mapped(("t", ["a"], [("stack", 1)]), tensors={"a": "s"}), "a parameter stands twice: 'a'"),
        (mapped(("t", ["a"], [("stack", 1)]), tensors={"b": "t"}), "a tensor stands twice: 't'"),
        ({"checkpoint_json": b"[1]"}, "expected an object"),
        ({"model_moe": b"\xff"}, r"model\.moe: not UTF-8"),
    ],
    ids=str,
)
def test_files_that_a_manifest_vouches_for_are_checked_all_the_same(
    path: Path, files: dict[str, bytes], message: str
) -> None:
    seal(path, **files)
    with pytest.raises(FormatError, match=message) as error:
        read_bundle(path)
    assert error.value.exit_code == 76


def test_nothing_in_a_bundle_runs(path: Path, tmp_path: Path) -> None:
    """Names that are code in Python, in a shell, in format strings and in pickles are names here."""
    mark = tmp_path / "mark"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    hostile = [code, f"$(touch {mark})", "{0.__class__.__init__.__globals__}", "cos\nsystem\n(S'id'\ntR."]
    fused = [(f"fused {name}", [f"part {name}"], [("stack", 1)]) for name in hostile]
    names = mapped(*fused, tensors={name: name for name in hostile}, ignored=hostile)
    seal(path, **names, listing_txt=code.encode())
    edit(path, lambda m: m.update(model=code, options={name: name for name in hostile[:3]}))
    found = read_bundle(path)
    assert list(found.checkpoint.tensors) == list(found.checkpoint.ignored) == hostile
    assert found.manifest.model == code
    assert not mark.exists()


# --- what is no bundle ---


def test_a_folder_of_something_else_is_a_mistake_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "manifest.json").write_text('{"name": "web app", "icons": []}')
    for other in (tmp_path / "page", tmp_path, tmp_path / "nothing", Path(__file__)):
        for read in (read_bundle, read_manifest):
            with pytest.raises(NotABundleError) as error:
                read(other)
            assert error.value.exit_code == 1


@pytest.mark.parametrize("version", [0, VERSION + 1, str(VERSION), None])
def test_another_version_says_to_compile_again(path: Path, version: Any) -> None:
    edit(path, lambda m: m.update(version=version, new_key=1))
    with pytest.raises(
        NotABundleError, match=f"bundle format {version}; this moec reads {VERSION}: compile again"
    ) as error:
        read_bundle(path)
    assert error.value.exit_code == 1


# --- writing ---


def test_a_bundle_replaces_a_bundle_of_any_version(compiled: Compiled, path: Path) -> None:
    edit(path, lambda m: m.update(version=0))
    save(compiled, path)
    assert dict(read_bundle(path).programs) == compiled.programs
    assert os.listdir(path.parent) == ["bundle"]


def foreign(path: Path) -> Iterator[Path]:
    """Things in the place of a bundle that somebody may want to keep."""
    (path / "notes").mkdir(parents=True)
    (path / "notes" / "thesis.txt").write_text("x")
    yield path / "notes"
    (path / "page").mkdir()
    (path / "page" / "manifest.json").write_text('{"name": "web app"}')
    yield path / "page"
    (path / "file").write_text("x")
    yield path / "file"


def test_nothing_but_a_bundle_is_replaced(compiled: Compiled, tmp_path: Path) -> None:
    for other in foreign(tmp_path / "foreign"):
        before = content(tmp_path)
        with pytest.raises(NotABundleError, match="exists and is no bundle: not replaced") as error:
            save(compiled, other)
        assert error.value.exit_code == 1
        assert content(tmp_path) == before


def test_a_bundle_that_somebody_put_files_into_is_not_replaced(compiled: Compiled, path: Path) -> None:
    (path / "notes.txt").write_text("x")
    with pytest.raises(NotABundleError, match=r"holds 'notes\.txt' beside a bundle: not replaced"):
        save(compiled, path)


@pytest.mark.parametrize("call", range(7))
def test_a_full_disk_leaves_all_as_it_was(
    compiled: Compiled, path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """Whichever file or folder it is that cannot be written."""
    before, calls = content(path.parent), iter(range(100))
    fsync = os.fsync

    def failing(descriptor: int) -> None:
        if next(calls) == call:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    for target in (path.parent / "new", path):
        calls = iter(range(100))
        with pytest.raises(OSError, match="No space left"):
            save(replaced(compiled), target)
        if call < 6:  # the last one is for the name of what is there already
            assert content(path.parent) == before
    assert [name for name in os.listdir(path.parent) if name.startswith(".")] == []


def replaced(compiled: Compiled) -> Compiled:
    """Another bundle than that of the fixture."""
    return replace(compiled, spec=replace(compiled.spec, text=compiled.spec.text + "# another\n"))


@pytest.mark.parametrize("move", range(2))
def test_a_bundle_that_cannot_be_moved_leaves_the_old_one(
    compiled: Compiled, path: Path, monkeypatch: pytest.MonkeyPatch, move: int
) -> None:
    before, moves, rename = content(path.parent), iter(range(100)), Path.rename

    def failing(self: Path, target: Path) -> Path:
        if next(moves) == move:
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Permission denied"):
        save(replaced(compiled), path)
    assert content(path.parent) == before


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(compiled: Compiled, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OSError, match="file"):
        save(compiled, tmp_path / "file" / "bundle")
    assert content(tmp_path) == {"file": b"x"}
