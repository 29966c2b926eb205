"""What users get wrong: each mistake has its exit code, a message that says what to do, and leaves no trace.

Codes: 1 the user's input, 74 input or output failed, 76 a file does not hold what it should, 78 the
environment.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import moec as package
from moec import dsl
from moec.runtime.abi.bundle import with_digest
from moec.runtime.abi.codec import dump
from mpi_job import job
from system.command_line import moec, moec_process, refused

# --- the command line itself ---

USAGE = {
    "a command that is none": ("compute tiny", "No such command 'compute'", "Try 'moec -h' for help"),
    "an option that is none": ("run tiny --steeps 3", "No such option: --steeps", "moec run [OPTIONS]"),
    "no argument": ("run --data short.txt", "Missing argument 'BUNDLE|SPEC'"),
    "no data": ("run tiny", "Missing option '--data'"),
    "no steps": (
        "run tiny --data short.txt --steps 0",
        "Invalid value for '--steps'",
        "greater than or equal to 1",
    ),
    "steps in words": (
        "run tiny --data short.txt --steps few",
        "Invalid value for '--steps'",
        "valid integer",
    ),
    "a stage that is none": ("show tiny --stage nothing", "'nothing' is not one of 'model', 'reference'"),
    "two ways of formatting": ("fmt tiny --check --explicit", "do not go together"),
    "strict about nothing": ("run tiny --data short.txt --strict-resume", "goes with --resume"),
    "a code that is none": ("explain MOE9999", "there is no error code MOE9999"),
}


@pytest.mark.parametrize("case", USAGE)
def test_a_wrong_command_line_is_answered_with_its_use(here: Path, case: str) -> None:
    arguments, *words = USAGE[case]
    refused(arguments, 1, *words)


def test_a_bug_is_told_from_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(spec: dsl.Spec) -> str:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(dsl, "summary_text", break_down)
    told = moec("check", "tiny")
    assert told.code == 70
    assert "ZeroDivisionError" in told.err
    assert "a bug of moec, not of your input" in told.err


# --- specs ---

SPECS = {
    "no such file": ("check nothing.moe", "MOE1105", "nothing.moe does not exist"),
    "no such file to format": ("fmt nothing.moe", "MOE1105", "nothing.moe does not exist"),
    "no such model": ("run tinny --data short.txt --out out", "MOE1101", "did you mean `tiny`?"),
    "not a text": ("fmt binary.moe", "MOE0106", "binary.moe is not UTF-8: byte 5"),
    "a folder": ("check no_texts", "MOE1105", "no_texts is not a regular file"),
    "a mistake": ("check wrong.moe", "MOE0403", "wrong.moe:8:", "heads = 3 is not a multiple of"),
    "a mistake to compile": ("compile wrong.moe -o out", "MOE0403", "wrong.moe:8:", "2 errors"),
    "a mistake to run": ("run wrong.moe --data short.txt --out out", "MOE0403", "2 errors"),
    "a mistake to verify": ("verify wrong.moe", "MOE0403"),
    "an override without a value": ("check tiny --set width", "MOE1103", "expected PATH=VALUE"),
    "an override of nothing": ("compile tiny -o out --set a.b=3", "MOE1104", "the model has no `a`"),
    "half a sequence": ("compile tiny -o out --set train.batch=100", "MOE0802", "nearest: 128 (1 sequence)"),
    "an expert degree": (
        "compile tiny -o out --set parallel.expert=3 --set parallel.shard=2",
        "expert must divide replicate * shard: 2 = 1 * 2 is no multiple of 3",
        "legal values of expert: 1, 2",
    ),
    "experts and one rank": (
        "run tiny --data short.txt --out out --set parallel.expert=2",
        "--set:1: expert must divide replicate * shard",
        "or give more ranks: --ranks 2, or -n 2 to run here",
    ),
    "ranks": ("run tiny -n 3 --data short.txt --out out --set parallel.shard=2", "but there are 3 ranks"),
    "rest of what": (
        "compile tiny -o out --set parallel.replicate=rest",
        "needs the number of ranks",
        "give --ranks N",
    ),
}


@pytest.mark.parametrize("case", SPECS)
def test_a_wrong_spec_is_located(here: Path, case: str) -> None:
    arguments, *words = SPECS[case]
    refused(arguments, 1, *words)


# --- bundles ---


def test_what_changes_a_spec_is_refused_for_a_bundle(here: Path, bundle: Path) -> None:
    for command in ("run {bundle} --data short.txt --out out", "verify {bundle}"):
        refused(f"{command} --set width=64", 1, "--set changes a spec: this is a bundle", bundle=bundle)
    for option in ("--set width=64", "--ranks 2", "--stage plan"):
        refused(f"show {{bundle}} {option}", 1, "a bundle has programs only", bundle=bundle)
    refused("compile {bundle} -o out", 1, "is not a regular file", bundle=bundle)


def _damage(path: Path, how: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as data, and its digest with it; those of the other files stay right."""
    data = json.loads(path.joinpath("manifest.json").read_text())
    how(data)
    path.joinpath("manifest.json").write_bytes(dump(with_digest(data)))


def _rewrite(path: Path, name: str, change: Callable[[str], str]) -> None:
    """Change a file, and its digest in the manifest with it: what a hostile sender would do."""
    text = change(path.joinpath(name).read_text())
    path.joinpath(name).write_text(text)
    digest = hashlib.sha256(text.encode()).hexdigest()
    _damage(path, lambda manifest: manifest["files"].update({name: digest}))


BUNDLES: dict[str, tuple[Callable[[Path], object], int, str]] = {
    "no manifest": (lambda b: (b / "manifest.json").unlink(), 1, "is no bundle: it has no manifest.json"),
    "cut manifest": (lambda b: os.truncate(b / "manifest.json", 900), 76, "manifest.json: not valid JSON"),
    "foreign manifest": (
        lambda b: (b / "manifest.json").write_text('{"manifest_version": 3, "name": "an extension"}'),
        1,
        "manifest.json is not one of a moec bundle",
    ),
    "other version": (
        lambda b: _damage(b, lambda m: m.update(version=99)),
        1,
        "has bundle format 99; this moec reads",
    ),
    "other torch": (
        lambda b: _damage(b, lambda m: m["toolchain"].update(torch="2.11.0")),
        78,
        f"compiled with torch 2.11.0, this is torch {torch.__version__.split('+')[0]}: compile again",
    ),
    "no number": (
        lambda b: _damage(b, lambda m: m.update(vocab="many")),
        76,
        "manifest.json.vocab: expected int, found 'many'",
    ),
    "a number edited by hand": (
        lambda b: (b / "manifest.json").write_text(
            (b / "manifest.json").read_text().replace('"warmup": ', '"warmup": 1')
        ),
        76,
        "manifest.json is damaged",
    ),
    "a hostile number": (
        lambda b: _damage(b, lambda m: m["buffers"]["embed"][0].update(ranks=0)),
        76,
        "buffers.embed[0].ranks: shard has 1 ranks",
    ),
    "cut programs": (lambda b: os.truncate(b / "programs.json", 900), 76, "programs.json is damaged"),
    "no programs": (lambda b: (b / "programs.json").unlink(), 76, "programs.json is missing"),
    "other listing": (lambda b: (b / "listing.txt").write_text("nothing"), 76, "listing.txt is damaged"),
    "foreign operation": (
        lambda b: _rewrite(b, "programs.json", lambda t: t.replace('"moec.expert_mm"', '"os.system"')),
        76,
        "os.system",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BUNDLES)
def test_a_bundle_that_is_not_right_runs_no_step(here: Path, bundle: Path, text: Path, case: str) -> None:
    damage, code, words = BUNDLES[case]
    shutil.copytree(bundle, "bundle")
    damage(Path("bundle"))
    refused("run bundle --data {text} --out out", code, words, text=text)


def test_every_command_that_reads_a_bundle_refuses_a_damaged_one(
    here: Path, bundle: Path, text: Path
) -> None:
    shutil.copytree(bundle, "bundle")
    os.truncate("bundle/manifest.json", 900)
    for command in ("show bundle", "verify bundle", "batches bundle --data {text} --steps 1 -o out"):
        refused(command, 76, "bundle/manifest.json: not valid JSON", text=text)
    refused("batches tiny --data {text} --steps 1 -o out", 1, "tiny is no bundle", "moec compile", text=text)


def test_a_hostile_bundle_cannot_steer_the_terminal(here: Path, bundle: Path) -> None:
    shutil.copytree(bundle, "bundle")
    _damage(Path("bundle"), lambda manifest: manifest.update(version="\x1b[2J"))
    told = refused("show bundle", 1, "has bundle format ?[2J")
    assert "\x1b" not in told.err


# --- ranks ---


def test_a_wrong_number_of_ranks_is_refused_before_any_starts(
    here: Path, bundle_of_two: Path, text: Path
) -> None:
    """With the way to start the right number: of -n, and without it."""
    run = "run {two} --data {text} --out out"
    advice = "start them with `mpirun -n 2 moec {command} {two} ...`, or on this machine with -n 2"
    for command, line in (("run", run), ("verify", "verify {two}")):
        expected = advice.replace("{command}", command)
        refused(line, 78, "{two} is for 2 ranks", expected, two=bundle_of_two, text=text)
        words = "{two} is for 2 ranks and -n asks for 3: give -n 2, or compile again for 3"
        refused(f"{line} -n 3", 78, words, two=bundle_of_two, text=text)


def test_transports_that_cannot_be_are_refused(here: Path, bundle: Path, text: Path) -> None:
    run = "run {bundle} --data {text} --out out --transport "
    refused(
        run + "pigeon",
        1,
        "'pigeon' is not one of 'self', 'mpi', 'gloo', 'nccl'",
        bundle=bundle,
        text=text,
    )
    if not torch.cuda.is_available():
        refused(run + "nccl", 78, "nccl transport needs a GPU", bundle=bundle, text=text)


def test_without_an_mpirun_the_message_says_how_to_get_one(
    here: Path, bundle_of_two: Path, text: Path
) -> None:
    """As with an interpreter that has no mpirun beside it, and none on PATH."""
    python = here / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    paths = [str(Path(package.__file__).parents[1]), sysconfig.get_path("purelib")]
    environment = {"PATH": str(python.parent), "PYTHONPATH": os.pathsep.join(paths)}
    line = ["run", str(bundle_of_two), "-n", "2", "--data", str(text), "--out", "out"]
    told = moec_process(*line, env=environment, python=[python])
    assert told.code == 78, told.err
    assert f"there is no mpirun in {python.parent} or on PATH" in told.err
    assert "pip install 'moec[local]'" in told.err
    assert not Path("out").exists()


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 3])
def test_too_few_or_too_many_ranks_under_mpirun_do_no_work(
    here: Path, bundle_of_two: Path, text: Path, ranks: int
) -> None:
    done = job(ranks, ["-m", "moec", "run", bundle_of_two, "--data", text, "--out", here / "out"])
    assert done.rc == 78, done.output
    assert done.output.count("moec: error") == 1
    assert f"is for 2 ranks (replicate 1 x shard 2), this job has {ranks}" in done.output
    assert "mpirun -n 2" in done.output
    assert not Path("out").exists()


@pytest.mark.mpi
def test_a_wrong_option_under_mpirun_is_answered_once(bundle_of_two: Path) -> None:
    done = job(2, ["-m", "moec", "run", bundle_of_two, "--data", "text", "--transport", "pigeon"])
    assert done.rc == 1, done.output
    assert done.output.count("is not one of 'self', 'mpi', 'gloo', 'nccl'") == 1


@pytest.mark.mpi
def test_a_spec_under_mpirun_is_refused_once_for_all_ranks(here: Path, text: Path) -> None:
    """Every rank would compile it, into the same place."""
    done = job(2, ["-m", "moec", "run", "tiny", "--data", text, "--out", here / "out"])
    assert done.rc == 1, done.output
    assert done.output.count("moec: error") == 1
    assert (
        "on all 2 ranks: under mpirun, give a bundle: `moec compile tiny -o BUNDLE` makes one" in done.output
    )
    assert not Path("out").exists()
