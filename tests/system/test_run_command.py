"""`moec run` and what it leaves; the batches it trains on; weights in, out and read as logits."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from typer.main import get_command

from exchange.families import Published, publish
from moec.cli.main import app
from moec.runtime import mpirun
from moec.runtime.data.megatron import write_megatron
from moec.runtime.record.claim import Claim
from moec.runtime.record.status import StatusFile
from mpi_job import job
from system.command_line import (
    MODEL,
    ON_TWO,
    content,
    losses,
    metrics,
    moec,
    moec_process,
    sets,
    status,
    succeed,
)

METRICS = {
    "step", "loss", "aux_loss", "grad_norm", "lr", "tokens", "tokens_per_s", "step_s", "expert_load",
    "load_imbalance", "router_entropy", "time_s", "flops_per_s", "mfu",
}  # fmt: skip
"""Of every step of a model with balance, on one rank."""


def test_a_run_leaves_metrics_verdict_weights_and_model(finished: Path, bundle: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "metrics.jsonl",
        "run_status.json",
        "weights",
        "model.moe",
    }
    lines = metrics(finished)
    assert [entry["step"] for entry in lines] == list(range(10))
    assert all(entry.keys() == METRICS for entry in lines)
    assert all(entry["tokens"] == 64 for entry in lines)
    assert all(sum(load) == 64 * 2 for entry in lines for load in entry["expert_load"].values())
    assert [lines[step]["lr"] for step in (0, 1, 2)] == [0.0, 0.005, 0.01]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert status(finished) | {"started": "", "updated": ""} == {
        "state": "complete", "step": 10, "steps": 10, "loss": lines[-1]["loss"], "exit_code": 0, "reason": "",
        "world": 1, "bundle": _digest(bundle), "started": "", "updated": "",
        "state_bytes": {"parameters": 4 * 32_160, "gradients": 4 * 32_160, "optimizer": 8 * 32_160},
    }  # fmt: skip
    assert (finished / "model.moe").read_bytes() == (bundle / "model.moe").read_bytes()


def _digest(bundle: Path) -> str:
    digest = json.loads((bundle / "manifest.json").read_text())["digest"]
    assert isinstance(digest, str)
    return digest


def test_weights_of_a_run_are_plain_safetensors(finished: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {}
    for path in sorted((finished / "weights").glob("*.safetensors")):
        with safe_open(path, framework="np") as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert sum(math.prod(shape) for shape in shapes.values()) == 32_160
    assert shapes["embed"] == shapes["logits"] == (257, 32)
    assert shapes["layers.0.experts.expert.3.gate"] == (16, 32)


def test_a_rerun_into_the_same_folder_starts_afresh_and_keeps_the_earlier_run(
    bundle: Path, text: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    told = succeed("run", bundle, "--data", text, "--out", out, "--steps", "3")
    assert "3 steps" in told.out
    assert losses(out) == losses(finished)[:3]
    assert (status(out)["state"], status(out)["step"], status(out)["steps"]) == ("complete", 3, 3)
    assert _weights(out).keys() == _weights(finished).keys()
    (previous,) = out.glob("previous-*")
    assert f"the earlier run in {out} is now in {previous}" in told.err
    assert content(previous) == content(finished)


def test_a_run_that_is_refused_leaves_no_other_verdict_than_its_own(
    bundle: Path, text: Path, finished: Path, tmp_path: Path
) -> None:
    """The verdict of an earlier run goes aside with its record, which stays whole."""
    refusals = {
        "--steps 11": 1,
        f"--init {tmp_path}": 1,
        f"--init hf:{tmp_path}": 1,
    }
    for number, (more, code) in enumerate(refusals.items()):
        out = tmp_path / f"run{number}"
        shutil.copytree(finished, out)
        told = moec("run", bundle, "--data", text, "--out", out, *more.split())
        assert told.code == code, told.err
        assert (status(out)["state"], status(out)["exit_code"]) == ("failed", code)
        assert status(out)["reason"] in told.err
        (previous,) = out.glob("previous-*")
        assert content(previous) == content(finished)
        again = moec("run", bundle, "--data", text, "--out", out, *more.split())
        assert again.code == code
        assert len(list(out.glob("previous-*"))) == 1


def test_a_run_starts_from_the_weights_of_its_own_folder(
    bundle: Path, text: Path, finished: Path, tmp_path: Path
) -> None:
    """Named as the folder, or as its weights; with a verdict beside them, as a run leaves it, or none."""
    elsewhere = tmp_path / "elsewhere"
    succeed("run", bundle, "--data", text, "--out", elsewhere, "--steps", "1", "--init", finished)
    for number, (init, verdict) in enumerate([("", True), ("weights", True), ("weights", False)]):
        out = tmp_path / f"run{number}"
        shutil.copytree(finished, out)
        if not verdict:
            (out / "run_status.json").unlink()
        succeed("run", bundle, "--data", text, "--out", out, "--steps", "1", "--init", out / init)
        assert losses(out) == losses(elsewhere)
        assert len(list(out.glob("previous-*"))) == 1


def _weights(run_folder: Path) -> dict[str, Tensor]:
    return {
        n: t for path in (run_folder / "weights").glob("*.safetensors") for n, t in load_file(path).items()
    }


@pytest.mark.mpi
def test_a_spec_runs_on_ranks_that_the_command_starts(finished: Path, text: Path, tmp_path: Path) -> None:
    """Two ranks learn what one does; the bundle stays beside the run."""
    out = tmp_path / "run"
    told = moec_process("run", "tiny", "-n", "2", "--data", text, "--out", out, *sets(*MODEL, *ON_TWO))
    assert told.code == 0, told.err
    assert "10 steps" in told.out
    assert losses(out) == pytest.approx(losses(finished), abs=1e-5)
    assert (status(out)["state"], status(out)["world"]) == ("complete", 2)
    assert (out / "bundle" / "manifest.json").is_file()
    assert all(
        torch.allclose(tensor, _weights(out)[name], atol=1e-4) for name, tensor in _weights(finished).items()
    )


@pytest.mark.mpi
def test_a_bundle_runs_under_mpirun_from_given_weights(
    bundle: Path, bundle_of_two: Path, finished: Path, text: Path, tmp_path: Path
) -> None:
    """Also on gloo: `--transport` and `--init` reach the ranks."""
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = ["--data", str(text), "--init", str(finished), "--steps", "4"]
    succeed("run", bundle, "--out", one, *arguments)
    done = job(2, ["-m", "moec", "run", bundle_of_two, "--out", two, "--transport", "gloo", *arguments])
    assert done.rc == 0, done.output
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    assert losses(one)[0] < losses(finished)[-1] + 0.1


def test_the_same_text_gives_the_same_run_in_every_form(
    bundle: Path, text: Path, finished: Path, tmp_path: Path
) -> None:
    """A file, a folder, JSON lines with another field, and Megatron's format by either of its names."""
    folder, lines, prefix = tmp_path / "texts" / "deep", tmp_path / "text.jsonl", tmp_path / "mega"
    folder.mkdir(parents=True)
    (folder / "bottles.txt").write_text(text.read_text())
    lines.write_text(json.dumps({"body": text.read_text()}) + "\n")
    write_megatron(prefix, [np.frombuffer(text.read_bytes(), np.uint8)], 257)
    for data in (folder.parent, f"{lines}:body", prefix, f"{prefix}.idx"):
        out = tmp_path / "run"
        succeed("run", bundle, "--data", data, "--out", out, "--steps", "2")
        assert losses(out) == losses(finished)[:2], data


def test_a_tokenizer_is_taken_from_its_file(text: Path, tmp_path: Path) -> None:
    """`run` and `batches` read the same tokens, which decode to the text again.

    Its end of document is one that nobody could guess.
    """
    trained = _train_tokenizer(text, tmp_path / "tokenizer.json")
    bundle, out, exact = tmp_path / "bundle", tmp_path / "run", tmp_path / "batches.safetensors"
    succeed("compile", "tiny", "-o", bundle, *sets(*MODEL, f"vocab={trained.get_vocab_size()}"))
    data = ["--data", str(text), "--tokenizer", str(tmp_path / "tokenizer.json")]
    for line in (["run", bundle, "--out", out], ["batches", bundle, "-o", exact, "--steps", "1"]):
        told = moec(*line, *data)
        assert told.code == 1
        assert "say which one does, with --end-of-document" in told.err
    data += ["--end-of-document", "<|stop|>"]
    succeed("run", bundle, "--out", out, "--steps", "1", *data)
    succeed("batches", bundle, "-o", exact, "--steps", "1", *data)
    read = load_file(exact)
    assert trained.decode(read["tokens"][0, 0].tolist()) in text.read_text()
    assert losses(out)[0] == pytest.approx(
        _loss(out, read["tokens"][0], read["targets"][0], tmp_path), abs=1e-5
    )


def _train_tokenizer(text: Path, path: Path) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=200, special_tokens=["<|stop|>"], show_progress=False)
    tokenizer.train([str(text)], trainer)
    tokenizer.save(str(path))
    return tokenizer


def test_the_ranks_are_told_what_the_command_is(
    bundle_of_two: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option that `run` has, but those that say which ranks there are and how they are compiled."""
    _train_tokenizer(text, tmp_path / "tokenizer.json")
    options = {
        "--data": str(text), "--out": str(tmp_path / "out"), "--steps": "2", "--init": str(tmp_path),
        "--init-from": "rank0", "--tokenizer": str(tmp_path / "tokenizer.json"),
        "--end-of-document": "<|stop|>", "--transport": "gloo", "--validation": str(text), "--timeout": "9",
        "--profile": "1..2", "--tracker": f"tensorboard:{tmp_path}", "--peak-flops": "1e12",
    }  # fmt: skip
    flags = ["--resume", "--strict-resume", "--enable-fault-injection", "--elastic"]
    started: list[list[str]] = []
    monkeypatch.setattr(mpirun, "start", lambda ranks, command, **options: started.append(command) or 70)
    given = [word for pair in options.items() for word in pair] + flags
    assert moec("run", bundle_of_two, "-n", "2", *given).code == 70, "that of the ranks"
    (line,) = started
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    defaults = command.make_context("run", [str(bundle_of_two), "--data", "x"]).params
    asked = command.make_context("run", [str(bundle_of_two), *given]).params
    assert command.make_context("run", line[line.index(str(bundle_of_two)) :]).params == asked
    same = {name for name in defaults if asked[name] == defaults[name]}
    assert same == {"target", "processes", "overrides"}, "an option that this test does not give"


# --- batches and logits ---


def test_batches_are_what_the_run_trains_on(bundle: Path, text: Path, finished: Path, tmp_path: Path) -> None:
    """The loss of a step is that of `logits` of the weights before it; the first step's rate is 0."""
    path = tmp_path / "batches.safetensors"
    succeed("batches", bundle, "--data", text, "--steps", "10", "-o", path)
    read = load_file(path)
    assert {name: (t.dtype, tuple(t.shape)) for name, t in read.items()} == {
        "tokens": (torch.int64, (10, 4, 16)),
        "targets": (torch.int64, (10, 4, 16)),
    }
    assert torch.equal(read["tokens"][:, :, 1:], read["targets"][:, :, :-1])
    first = tmp_path / "first"
    succeed("run", bundle, "--data", text, "--out", first, "--steps", "1")
    before = _loss(first, read["tokens"][0], read["targets"][0], tmp_path)
    assert losses(finished)[0] == pytest.approx(before, abs=1e-5)
    again = tmp_path / "again"
    succeed("run", bundle, "--data", text, "--out", again, "--steps", "1", "--init", finished)
    after = _loss(finished, read["tokens"][0], read["targets"][0], tmp_path)
    assert losses(again)[0] == pytest.approx(after, abs=1e-5)
    assert after < before - 0.1


def _loss(source: Path, tokens: Tensor, targets: Tensor, folder: Path) -> float:
    """Cross-entropy by `moec logits` of `source`, for tokens and targets (B, S)."""
    ids, out = folder / "ids.json", folder / "logits.safetensors"
    ids.write_text(json.dumps(tokens.tolist()))
    succeed("logits", source, "--ids", ids, "-o", out)
    logits = load_file(out)["logits"]
    assert (logits.dtype, tuple(logits.shape[:2])) == (torch.float32, tuple(tokens.shape))
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()


# --- published checkpoints ---


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory: pytest.TempPathFactory) -> Published:
    return publish("mixtral", tmp_path_factory.mktemp("mixtral"))


def test_a_published_checkpoint_is_imported_and_trained_from(
    mixtral: Published, text: Path, tmp_path: Path
) -> None:
    """From the checkpoint or its import, the first loss is what transformers makes of the same tokens."""
    imported, bundle, exact = tmp_path / "imported", tmp_path / "bundle", tmp_path / "batches.safetensors"
    succeed("import", mixtral.directory, "-o", imported)
    training = [override for override in MODEL if override.startswith("train.")]
    succeed("compile", imported / "model.moe", "-o", bundle, *sets(*training))
    succeed("batches", bundle, "--data", text, "--steps", "1", "-o", exact)
    ids = load_file(exact)
    with torch.no_grad():
        logits = mixtral.model(ids["tokens"][0], use_cache=False).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids["targets"][0].flatten()).item()
    for init in (f"hf:{mixtral.directory}", imported, imported / "weights"):
        succeed("run", bundle, "--data", text, "--out", tmp_path / "run", "--steps", "1", "--init", init)
        assert losses(tmp_path / "run")[0] == pytest.approx(expected, abs=1e-5), init


def test_a_finished_run_is_exported_and_imported_again(finished: Path, tmp_path: Path) -> None:
    exported, imported, ids = tmp_path / "exported", tmp_path / "imported", tmp_path / "ids.json"
    ids.write_text("[[1, 2, 3], [4, 5, 6]]")
    succeed("export", finished, "--to", exported)
    succeed("import", exported, "-o", imported)
    for name, source in (("run", finished), ("imported", imported)):
        succeed("logits", source, "--ids", ids, "-o", tmp_path / f"{name}.safetensors")
    one, other = (load_file(tmp_path / f"{name}.safetensors")["logits"] for name in ("run", "imported"))
    assert torch.equal(one, other)
    config = json.loads((exported / "config.json").read_text())
    assert (config["model_type"], config["num_local_experts"], config["hidden_size"]) == ("mixtral", 8, 32)


def test_a_folder_in_which_a_run_is_at_work(
    tmp_path: Path, bundle: Path, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever holds it keeps its record, whether the other one would have gone on or begun anew."""
    monkeypatch.setattr("moec.runtime.record.claim.PATIENCE_S", 0.2)
    out = tmp_path / "run"
    out.mkdir()
    StatusFile(out / "run_status.json", steps=9, world=2, bundle="")
    before = (out / "run_status.json").read_bytes()
    with Claim(out) as claim:
        claim.take()
        for options in ([], ["--resume"]):
            told = moec("run", bundle, "--data", text, "--out", out, *options)
            assert told.code == 1
            assert "another run is at work in" in told.text
            assert (out / "run_status.json").read_bytes() == before
    assert {path.name for path in out.iterdir()} == {"run_status.json"}
