"""Bundles that somebody made to do harm: refused by name; nothing runs, nothing outside is opened.

Their manifests vouch for them: digests find damage, not intent.
"""

from __future__ import annotations

import io
import json
import os
import tracemalloc
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from moec.cli.main import run
from moec.compiler.emit.bundle import save
from moec.compiler.pipeline import Compiled, compile_spec
from moec.runtime.abi import bundle as bundles
from moec.runtime.abi.bundle import read_bundle, write_bundle
from moec.runtime.abi.codec import FormatError, dump, parse_json
from moec.runtime.abi.instructions import INSTRUCTIONS
from moec.runtime.abi.program import Instruction, Program, Ref
from moec.runtime.executor import ExecutionError, Executor
from sealed_bundles import edit, seal
from small_models import small_spec


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_spec(small_spec("gated"))


@pytest.fixture
def path(compiled: Compiled, tmp_path: Path) -> Path:
    """A good bundle."""
    save(compiled, tmp_path / "bundle")
    return tmp_path / "bundle"


def refused(path: Path, message: str) -> None:
    with pytest.raises(FormatError, match=message) as error:
        read_bundle(path)
    assert error.value.exit_code == 76


# --- paths ---

OUTSIDE = (
    "../secret",
    "/etc/passwd",
    "model.moe/../../secret",
    "./model.moe",
    "",
    "~/.ssh/id_rsa",
    "model.moe\0",
    "..",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_no_name_in_the_file_table_is_a_path(path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one more file, or in the place of one: the five names are known, and no others are looked at."""
    (path.parent / "secret").write_text("secret")
    opened: list[Path] = []
    read = bundles._read_file
    monkeypatch.setattr(bundles, "_read_file", lambda at, name: opened.append(at / name) or read(at, name))
    digests = json.loads((path / "manifest.json").read_text())["files"]
    for files in (digests | {name: "0" * 64}, {name: "0" * 64, **dict(list(digests.items())[1:])}):
        edit(path, lambda m, files=files: m.update(files=files))
        refused(path, "files are not those of a bundle|is no printable text")
    assert {at.name for at in opened} == {"manifest.json"}


@pytest.mark.parametrize("name", ["model.moe", "programs.json", "listing.txt"])
def test_a_link_to_the_outside_is_read_for_its_digest_and_never_shown(path: Path, name: str) -> None:
    secret = path.parent / "secret"
    secret.write_text("the secret of somebody else")
    (path / name).unlink()
    (path / name).symlink_to(secret)
    with pytest.raises(FormatError, match="does not have the digest in the manifest") as error:
        read_bundle(path)
    assert "secret of" not in str(error.value)


def test_a_link_to_itself_or_to_nothing_is_a_missing_file(path: Path) -> None:
    for target in ("programs.json", "missing"):
        (path / "programs.json").unlink()
        (path / "programs.json").symlink_to(target)
        refused(path, r"programs\.json is missing")


def test_a_device_is_not_read(path: Path) -> None:
    """/dev/zero has no end."""
    (path / "listing.txt").unlink()
    (path / "listing.txt").symlink_to("/dev/zero")
    refused(path, r"listing\.txt is missing")


# --- sizes ---

BOMBS: dict[str, Callable[[], bytes]] = {
    "lists": lambda: b"[" + b"[]," * (20 << 20) + b"[]]",
    "objects": lambda: b"[" + b"{}," * (20 << 20) + b"{}]",
    "numbers": lambda: b"[" + b"1," * (30 << 20) + b"1]",
    "depth": lambda: b"[" * (20 << 20),
    "deep objects": lambda: b'{"a":' * 10_000_000,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_json_that_is_small_in_a_file_and_large_in_memory_is_not_parsed(bomb: str) -> None:
    raw = BOMBS[bomb]()
    assert len(raw) < bundles._LIMITS_BYTES["programs.json"]
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"more than 16777216 values|not valid JSON"):
            parse_json(raw, "f")
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def test_a_number_of_many_digits_is_refused() -> None:
    """Reading one takes time by the square of its length."""
    with pytest.raises(FormatError, match="not valid JSON"):
        parse_json(b"1" * (1 << 20), "f")


def test_files_are_limited_before_they_are_read(path: Path) -> None:
    """A sparse file takes no room on disk, and as much as it says in memory."""
    for name, limit in bundles._LIMITS_BYTES.items():
        kept = (path / name).read_bytes()
        os.truncate(path / name, 1 << 40)
        tracemalloc.start()
        try:
            refused(path, f"{name} is larger than {limit} bytes".replace(".", r"\."))
            assert tracemalloc.get_traced_memory()[1] < 2 * limit + sum(bundles._LIMITS_BYTES.values())
        finally:
            tracemalloc.stop()
        (path / name).write_bytes(kept)


# --- programs ---


def with_programs(path: Path, *programs: Program) -> None:
    """Add programs to a bundle, in a form that vouches for itself."""
    good = read_bundle(path)
    changed = {p.name: p for p in (*good.programs.values(), *programs)}
    write_bundle(path, good.manifest, changed, good.checkpoint, good.source)


def calling(name: str, *callees: str) -> Program:
    calls = tuple(Instruction(f"c{i}", "moec.call", (callee, ())) for i, callee in enumerate(callees))
    return Program(name, (), calls, (), (), ())


def test_programs_that_call_each_other_twice_are_refused(path: Path) -> None:
    """Sixty-four of them would run longer than there is time."""
    chain = [calling("p0"), *(calling(f"p{i}", f"p{i - 1}", f"p{i - 1}") for i in range(1, 64))]
    with_programs(path, *chain)
    refused(path, r"p\d+ comes to more than 1000000000 instructions, calls included")


def test_rings_of_calls_are_refused(path: Path) -> None:
    for ring in ([calling("a", "a")], [calling("a", "b"), calling("b", "c"), calling("c", "a")]):
        with_programs(path, *ring)
        refused(path, "programs call each other in a ring")
        path_programs = json.loads((path / "programs.json").read_text())
        path_programs["programs"] = [p for p in path_programs["programs"] if len(p["name"]) > 1]
        seal(path, programs_json=dump(path_programs))


def test_a_long_chain_of_calls_is_read_without_a_deep_stack(path: Path) -> None:
    with_programs(path, calling("p0"), *(calling(f"p{i}", f"p{i - 1}") for i in range(1, 5000)))
    assert len(read_bundle(path).programs) > 5000


CODE = (
    "__import__('os').system('touch mark')",
    "os.system",
    "moec.__class__",
    "aten.system.default",
    "builtins.eval",
)


@pytest.mark.parametrize(
    "name", [*CODE, "aten.add", "aten.add.out", "aten.set_.source_Storage", "aten.resize_.default"]
)
def test_instructions_are_those_of_the_set(path: Path, name: str) -> None:
    """Operations of torch that are not listed, such as those that change memory, are as unknown as code."""
    assert name not in INSTRUCTIONS
    with_programs(path, Program("evil", (), (Instruction("x", name, ()),), (), (), ()))
    refused(path, "is not in the instruction set")


@pytest.mark.parametrize("field", ["device", "layout", "pin_memory", "memory_format", "out"])
def test_no_program_says_where_a_tensor_lies(path: Path, field: str) -> None:
    made = Instruction("x", "aten.zeros.default", ((2,),), ((field, "cuda"),))
    with_programs(path, Program("evil", (), (made,), (), (), ()))
    refused(path, "aten.zeros.default: got an unexpected keyword argument")


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("int.mul", ("x", 1 << 40)),
        ("int.mul", ((0,), 1 << 40)),
        ("int.mul", (1 << 62, 2)),
        ("int.add", ((1,), (2,))),
        ("int.mul", (True, 2)),
        ("int.floordiv", (1.5, 1)),
        ("int.floordiv", (1, 0)),
    ],
)
def test_whole_numbers_are_sizes_and_nothing_else(op: str, arguments: tuple[Any, ...]) -> None:
    """Python would make a text or a list of any length, and numbers without a bound."""
    program = Program("p", (), (Instruction("x", op, arguments),), (Ref("x"),), (), ("x",))
    with pytest.raises(ExecutionError, match=r"up to 2\^62|ZeroDivisionError"):
        Executor({"p": program}, {}, torch.device("cpu")).run("p", [])


# --- what is printed ---


def test_nothing_in_a_bundle_steers_a_terminal(path: Path) -> None:
    """Strings in arguments are shown as Python writes them; names that are not printable are refused."""
    escape = "\x1b]0;owned\x07\x1b[2J"
    with_programs(path, Program("q", (), (Instruction("x", "moec.member", (escape, "data")),), (), (), ()))
    shown = io.StringIO()
    with redirect_stdout(shown), redirect_stderr(shown):
        run(["show", str(path)])
    assert "\x1b" not in shown.getvalue()
    assert "\x07" not in shown.getvalue()


@pytest.mark.parametrize("where", ["name", "input", "label", "instruction", "type", "callee"])
def test_names_are_printable_wherever_they_stand(compiled: Compiled, path: Path, where: str) -> None:
    bad = "x\x1b[2J"
    plain = Program(
        "q", ("i",), (Instruction("n", "aten.neg.default", (Ref("i"),)),), (Ref("n"),), ("i",), ("n",)
    )
    made = plain.instructions[0]
    changed = {
        "name": replace(plain, name=bad),
        "input": replace(plain, inputs=(bad,), instructions=(replace(made, arguments=(Ref(bad),)),)),
        "label": replace(plain, output_labels=(bad,)),
        "instruction": replace(plain, instructions=(replace(made, name=bad),), outputs=(Ref(bad),)),
        "type": replace(plain, instructions=(replace(made, type=bad),)),
        "callee": replace(plain, instructions=(replace(made, op="moec.call", arguments=(bad, ())),)),
    }[where]
    with_programs(path, changed)
    with pytest.raises(FormatError) as error:
        read_bundle(path)
    assert "\x1b" not in str(error.value) or where == "callee"
