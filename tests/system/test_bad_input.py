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

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import moec as package
from moec import dsl, models
from moec.runtime.data.megatron import write_megatron
from mpi_job import job
from system.command_line import MODEL, Outcome, content, moec, moec_process, sets, succeed

TINY = models.read("tiny")[1]  # type: ignore[index]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the files that tests name; `out` is not there."""
    monkeypatch.chdir(tmp_path)
    Path("wrong.moe").write_text(TINY.replace("heads: 4, kv_heads: 2", "heads: 3, kv_heads: 2"))
    Path("binary.moe").write_bytes(b"model\xff")
    Path("empty.txt").touch()
    Path("short.txt").write_text("sixteen letters!")
    Path("latin.txt").write_bytes("Füße und noch mehr, damit es reicht".encode("latin-1"))
    Path("no_texts").mkdir()
    Path("no_texts/image.png").touch()
    Path("line.jsonl").write_text('{"text": "good"}\n{"text": bad}\n')
    Path("field.jsonl").write_text('{"body": "good"}\n')
    Path("tokenizer.json").write_text('{"version": "1.0"}')
    Path("damaged.json").write_text('{"version": ')
    write_megatron(Path("ids"), [np.arange(300)], 65_000)
    for name in ("headless", "shortened"):
        shutil.copy("ids.idx", f"{name}.idx")
        shutil.copy("ids.bin", f"{name}.bin")
    os.truncate("headless.idx", 20)
    os.truncate("shortened.bin", 20)
    shutil.copy("ids.idx", "lonely.idx")
    return tmp_path


def refused(arguments: str, code: int, *words: str, **paths: Path) -> Outcome:
    """The command ends with `code`, says `words`, and leaves the working directory as it was."""
    before = content(Path())
    told = moec(*(part.format(**paths) for part in arguments.split()))
    assert told.code == code, told.err
    for word in words:
        assert word.format(**paths) in told.text, told.err
    assert "Traceback" not in told.err
    assert content(Path()) == before
    return told


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
    "a run to go on from": ("run tiny --data short.txt --resume", "--resume is not supported yet"),
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
    """Change the manifest as data; the digests of the other files stay right."""
    data = json.loads(path.joinpath("manifest.json").read_text())
    how(data)
    path.joinpath("manifest.json").write_text(json.dumps(data))


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


# --- data and tokenizers ---

DATA: dict[str, tuple[str, int, str]] = {
    "nothing there": ("missing.txt", 1, "no data at missing.txt"),
    "nothing built in": ("builtin:poems", 1, "no data at builtin:poems: neither builtin:python-docs nor"),
    "empty": ("empty.txt", 1, "empty.txt has 0 tokens; one sequence of 16 needs 17"),
    "one token too short": ("short.txt", 1, "short.txt has 16 tokens; one sequence of 16 needs 17"),
    "no UTF-8": ("latin.txt", 1, "latin.txt is not UTF-8: invalid start byte at byte 1"),
    "no texts": ("no_texts", 1, "no_texts holds no file that ends in .jsonl, .md"),
    "a bad line": ("line.jsonl", 1, "line.jsonl:2: not a JSON object"),
    "a missing field": ("field.jsonl", 1, 'field.jsonl:1: no field "text"; the fields are: body'),
    "ids past the vocab": ("ids", 1, "token 257 has id 257, but the model's vocab is 257"),
    "an index cut off": ("headless", 76, "headless.idx has 20 bytes; its header has 34"),
    "ids cut off": ("shortened.idx", 76, "shortened.bin"),
    "no ids": ("lonely", 1, "no file lonely.bin"),
    "no index": ("missing.idx", 1, "no file missing.idx"),
}


@pytest.mark.parametrize("case", DATA)
def test_data_that_cannot_be_used_is_named(here: Path, bundle: Path, case: str) -> None:
    data, code, words = DATA[case]
    refused(f"run {{bundle}} --data {data} --out out", code, words, bundle=bundle)
    refused(f"batches {{bundle}} --data {data} --steps 1 -o out", code, words, bundle=bundle)


TOKENIZERS = {
    "nothing there": ("missing.json", "no tokenizer at missing.json"),
    "not JSON": ("damaged.json", "damaged.json is not a Hugging Face tokenizer.json"),
    "not a tokenizer": ("tokenizer.json", "tokenizer.json is not a Hugging Face tokenizer.json"),
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_a_tokenizer_that_is_none_is_named(here: Path, bundle: Path, text: Path, case: str) -> None:
    tokenizer, words = TOKENIZERS[case]
    refused(
        f"run {{bundle}} --data {{text}} --tokenizer {tokenizer} --out out",
        1,
        words,
        bundle=bundle,
        text=text,
    )


def test_more_steps_than_the_run_has_are_refused(here: Path, bundle: Path, text: Path) -> None:
    words = "--steps 11: the run has 10 steps; compile it with more, --set train.steps=11"
    refused("run {bundle} --data {text} --out out --steps 11", 1, words, bundle=bundle, text=text)


def test_batches_past_the_end_of_the_data_or_nowhere_are_refused(here: Path, text: Path) -> None:
    succeed("compile", "tiny", "-o", "bundle", *sets(*MODEL[:-3], "train.epochs=1"))
    refused("batches bundle --data {text} --steps 999 -o out", 1, "make 181 steps", text=text)
    refused("batches bundle --data {text} --steps 1 -o none/out", 1, "there is no directory none", text=text)
    refused("batches bundle --data {text} --steps 1 -o no_texts", 74, "cannot write no_texts", text=text)


def test_a_slip_in_a_path_is_found_before_the_spec_is_compiled(here: Path, text: Path) -> None:
    """A bundle for a run that cannot start would be left behind, and the time be lost."""
    for data in ("missing.txt", "missing.idx", "lonely", "no_texts"):
        refused(f"run tiny -n 2 --data {data} --out out", 1, data.split(".")[0])
    refused(
        "run tiny --data {text} --tokenizer missing.json --out out",
        1,
        "no tokenizer at missing.json",
        text=text,
    )
    refused(
        "run tiny --data {text} --init missing --out out",
        1,
        "--init missing: there is no such folder",
        text=text,
    )
    refused("run tiny --data {text} --out short.txt", 1, "--out short.txt is a file", text=text)


# --- weights ---


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """The finished run as a published checkpoint, whose files carry no digests."""
    path = tmp_path_factory.mktemp("exported") / "checkpoint"
    succeed("export", finished, "--to", path)
    return path


ROUTER = "model.layers.0.block_sparse_moe.gate.weight"


def _change(name: str, make: Callable[[Tensor], Tensor | None]) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        old = tensors.pop(name, torch.zeros(1))
        if (new := make(old)) is not None:
            tensors[name] = new

    return change


WEIGHTS: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "missing": (_change(ROUTER, lambda t: None), "gate.weight"),
    "extra": (_change("model.layers.9.mystery", lambda t: t), "model.layers.9.mystery"),
    "misshapen": (_change(ROUTER, lambda t: t[:, 1:].contiguous()), "(8, 31)"),
    "integers": (_change(ROUTER, lambda t: t.to(torch.int32)), "is int32, float32 is needed"),
    "wider": (_change(ROUTER, lambda t: t.double()), "is float64, float32 is needed"),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_tensors_that_do_not_fit_the_model_are_named(
    here: Path, bundle: Path, text: Path, exported: Path, case: str
) -> None:
    change, words = WEIGHTS[case]
    shutil.copytree(exported, "checkpoint")
    tensors = load_file("checkpoint/model.safetensors")
    change(tensors)
    save_file(tensors, "checkpoint/model.safetensors")
    command = "run {bundle} --data {text} --init hf:checkpoint --out out"
    refused(command, 76, words, "checkpoint", bundle=bundle, text=text)


def test_weights_of_another_model_or_damaged_ones_are_refused(
    here: Path, bundle: Path, text: Path, finished: Path
) -> None:
    shutil.copytree(finished, "run")
    os.truncate("run/weights/embed.safetensors", 1000)
    command = "run {bundle} --data {text} --out out --init "
    refused(command + "run", 76, "embed.safetensors is truncated", bundle=bundle, text=text)
    refused(command + "no_texts", 1, "no_texts holds no weights", bundle=bundle, text=text)
    refused(
        command + "hf:no_texts", 1, "no_texts has neither model.safetensors nor", bundle=bundle, text=text
    )
    succeed("compile", "tiny", "-o", "deeper", *sets(*MODEL, "layers=2"))
    refused(f"run deeper --data {{text}} --out out --init {finished}", 76, "layers.1.", text=text)


def test_a_model_without_a_weight_map_takes_no_published_checkpoint(
    here: Path, text: Path, exported: Path
) -> None:
    Path("plain.moe").write_text(TINY[: TINY.index("checkpoint huggingface")])
    succeed("compile", "plain.moe", "-o", "bundle", *sets(*MODEL))
    command = "run bundle --data {text} --init hf:{exported} --out out"
    refused(command, 1, "no `checkpoint huggingface` block", text=text, exported=exported)


# --- where output goes ---


def test_output_is_not_written_over_something_else(here: Path, bundle: Path, text: Path) -> None:
    run = "run {bundle} --data {text} --out "
    refused(run + "short.txt", 1, "--out short.txt is a file", bundle=bundle, text=text)
    refused(run + "short.txt/below", 74, "short.txt/below: Not a directory", bundle=bundle, text=text)
    Path("mine/weights").mkdir(parents=True)
    Path("mine/weights/notes.txt").write_text("mine")
    refused(run + "mine", 1, "mine/weights", bundle=bundle, text=text)
    Path("file").touch()
    refused("compile tiny -o file", 1, "file exists and is no bundle: not replaced")


def test_output_that_the_system_refuses_is_a_failure_of_output(here: Path, bundle: Path, text: Path) -> None:
    """In /proc nobody makes folders, not even root."""
    refused("run {bundle} --data {text} --out /proc/moec", 74, "/proc/moec: ", bundle=bundle, text=text)
    refused("compile tiny -o /proc/moec", 74, "/proc/")


# --- exchange ---


def test_exchange_names_what_is_missing_or_in_the_way(here: Path, finished: Path) -> None:
    Path("ids.json").write_text("[[1, 2], [3]]")
    Path("large.json").write_text("[[257]]")
    refused("import no_texts -o out", 1, "no file no_texts/config.json")
    refused("export no_texts --to out", 1, "no_texts is no import and no finished run")
    refused("export {finished} --to no_texts", 1, "no_texts", finished=finished)
    refused(
        "logits {finished} --ids ids.json -o out", 1, "list 1 has 1 ids and list 0 has 2", finished=finished
    )
    refused("logits {finished} --ids large.json -o out", 1, "whole numbers from 0 to 256", finished=finished)
    refused("logits {finished} --ids missing.json -o out", 1, "no file missing.json", finished=finished)


def test_the_weights_beside_a_failed_rerun_are_not_taken_for_its_own(here: Path, finished: Path) -> None:
    shutil.copytree(finished, "run")
    verdict = Path("run/run_status.json")
    verdict.write_text(verdict.read_text().replace('"complete"', '"failed"'))
    Path("ids.json").write_text("[[1, 2]]")
    for command in ("export run --to out", "logits run --ids ids.json -o out"):
        refused(command, 1, "run is no finished run: by its run_status.json it is failed")


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
