"""Files that cannot be used and places that cannot be written: each is named, with its code, and no trace."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from system.command_line import MODEL, TINY, refused, sets, succeed

# --- data and tokenizers ---

DATA: dict[str, tuple[str, int, str]] = {
    "nothing there": ("missing.txt", 1, "no data at missing.txt"),
    "nothing built in": ("builtin:poems", 1, "no data at builtin:poems: neither builtin:python-docs nor"),
    "empty": ("empty.txt", 1, "empty.txt has 0 tokens; one sequence of 16 needs 17"),
    "one token too short": ("short.txt", 1, "short.txt has 16 tokens; one sequence of 16 needs 17"),
    "no UTF-8": ("latin.txt", 1, "latin.txt is not UTF-8: invalid start byte at byte 1"),
    "no texts": ("no_texts", 1, "no_texts holds no file that ends in .txt, .text, .md"),
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
    refused("batches {bundle} --data {text} -o out --steps 11", 1, words, bundle=bundle, text=text)


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
    shutil.copytree(finished, "flipped")
    with Path("flipped/weights/embed.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    refused(command + "flipped", 76, "embed.safetensors is damaged", bundle=bundle, text=text)
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
