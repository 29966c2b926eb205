"""Validation during a run, `moec eval`, mixtures and separate documents, as a user meets them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import MixtralConfig, MixtralForCausalLM

from .command_line import MODEL, ON_TWO, losses, metrics, moec, moec_process, sets, succeed

EVALUATED = "train.validation=evaluated(every: 2, batches: 3)"
SEPARATE = "train.documents=separate"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two corpora to mix, and one to hold out."""
    folder = tmp_path_factory.mktemp("corpus")
    for name, word, count in (("web", "web text", 300), ("books", "a book", 200), ("held", "unseen", 60)):
        rows = (json.dumps({"text": f"{word} {i} " * (1 + i % 4)}) + "\n" for i in range(count))
        (folder / f"{name}.jsonl").write_text("".join(rows))
    return folder


def mixture(corpus: Path) -> list[str]:
    return ["--data", f"0.7*{corpus / 'web.jsonl'}", "--data", f"0.3*{corpus / 'books.jsonl'}"]


def evaluated(*arguments: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(succeed("eval", *arguments, "--json").out)
    return found


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five steps on a mixture of separate documents, with two held-out sets."""
    out = tmp_path_factory.mktemp("run") / "out"
    held = ["--validation", str(corpus / "held.jsonl"), "--validation", str(corpus / "books.jsonl")]
    succeed(
        "run", "tiny", *mixture(corpus), *held, "--out", out, "--steps", "5",
        *sets(*MODEL, EVALUATED, SEPARATE),
    )  # fmt: skip
    return out


def test_validation_is_in_the_metrics_of_its_steps(run: Path, corpus: Path) -> None:
    """After steps 2 and 4, counted from 1, and after the last; lower at the end than at the beginning."""
    found = {entry["step"]: entry.get("validation_loss") for entry in metrics(run)}
    names = {str(corpus / "held.jsonl"), str(corpus / "books.jsonl")}
    assert {step: told is not None for step, told in found.items()} == {
        0: False, 1: True, 2: False, 3: True, 4: True,
    }  # fmt: skip
    for step in (1, 3, 4):
        assert found[step].keys() == names
    for name in names:
        assert found[4][name] < found[1][name]


def test_the_last_validation_is_what_eval_says_of_the_run(run: Path, corpus: Path) -> None:
    held = corpus / "held.jsonl"
    found = evaluated(run, "--data", held, "--batches", "3")
    assert found["loss"] == metrics(run)[-1]["validation_loss"][str(held)]
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["tokens"] == 3 * 4 * 16
    assert 0 < found["loss_tokens"] < found["tokens"]  # ends of documents predict nothing
    loads = found["expert_load"]
    assert all(sum(load) == 2 * found["tokens"] for load in loads.values())
    assert evaluated(run, "--data", held)["tokens"] > found["tokens"]


def test_evaluation_changes_nothing_in_training(run: Path, corpus: Path, tmp_path: Path) -> None:
    arguments = ["run", "tiny", *mixture(corpus), "--out", str(tmp_path / "out"), "--steps", "5"]
    succeed(*arguments, *sets(*MODEL, SEPARATE))
    assert losses(tmp_path / "out") == losses(run)


def test_weights_and_checkpoints_can_be_named(run: Path, corpus: Path, tmp_path: Path) -> None:
    """A bundle of the model's own, with the weights of the run; and a run whose state was saved."""
    held = ["--data", str(corpus / "held.jsonl")]
    succeed("compile", run / "model.moe", "-o", tmp_path / "bundle")
    of_run = evaluated(run, *held)
    assert evaluated(tmp_path / "bundle", *held, "--weights", run / "weights") == of_run
    saved = tmp_path / "saved"
    every = "train.checkpoint=saved(every: 2)"
    succeed("run", "tiny", *mixture(corpus), "--out", saved, "--steps", "5", *sets(*MODEL, SEPARATE, every))
    assert evaluated(tmp_path / "bundle", *held, "--checkpoint", saved) == of_run
    (saved / "run_status.json").unlink()
    (saved / "weights").rename(saved / "elsewhere")
    assert evaluated(saved, *held) == of_run


def test_slips_are_one_line(run: Path, corpus: Path, tmp_path: Path) -> None:
    held = str(corpus / "held.jsonl")
    asks = sets(*MODEL, EVALUATED)
    out = ["--out", str(tmp_path / "out")]
    cases = {
        "--validation is given, and train.validation is none": [
            "run", "tiny", "--data", held, "--validation", held, *out, *sets(*MODEL),
        ],
        "train.validation evaluates held-out data: give it with --validation": [
            "run", "tiny", "--data", held, *out, *asks,
        ],
        "no data at": ["run", "tiny", "--data", held, "--validation", "missing", *out, *asks],
        "the weight 0 is not a positive number": ["run", "tiny", "--data", f"0*{held}", *out, *sets(*MODEL)],
        "has no parameters: give --weights or --checkpoint": ["eval", "tiny", "--data", held],
        "the parameters are in one of them": [
            "eval", str(run), "--data", held, "--weights", "x", "--checkpoint", "y",
        ],
    }  # fmt: skip
    for message, arguments in cases.items():
        told = moec(*arguments)
        assert told.code == 1, message
        assert message in told.text
        assert "Traceback" not in told.err
    assert not (tmp_path / "out" / "metrics.jsonl").exists()


def test_eval_of_an_import_is_the_loss_of_transformers(tmp_path: Path, corpus: Path) -> None:
    """All of a text, in float32, whose resolution is 1.2e-7, in other orders of sums: to 1e-5."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=257, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, max_position_embeddings=64,
    )  # fmt: skip
    model = MixtralForCausalLM(config).eval()
    model.save_pretrained(tmp_path / "hf")
    succeed("import", tmp_path / "hf", "-o", tmp_path / "imported")
    text = "What is predicted is what comes next. " * 30
    (tmp_path / "text.txt").write_text(text)
    overrides = sets("train.sequence=16", "train.batch=4 sequences")
    found = evaluated(tmp_path / "imported", "--data", tmp_path / "text.txt", *overrides)
    ids = torch.tensor(list(text.encode()))
    count = (len(ids) - 1) // 16
    tokens, targets = ids[: count * 16].view(count, 16), ids[1 : count * 16 + 1].view(count, 16)
    with torch.no_grad():
        expected = F.cross_entropy(model(tokens).logits.flatten(0, 1), targets.flatten())
    assert found["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert found["tokens"] == found["loss_tokens"] == tokens.numel()


def test_a_tokenized_mixture_trains_as_its_text(corpus: Path, run: Path, tmp_path: Path) -> None:
    """Documents included: the losses of separate documents are equal, bit for bit."""
    data = []
    for weight, name in ((0.7, "web"), (0.3, "books")):
        succeed("tokenize", corpus / f"{name}.jsonl", "-o", tmp_path / name, "-j", "1")
        data += ["--data", f"{weight}*{tmp_path / name}"]
    succeed("run", "tiny", *data, "--out", tmp_path / "out", "--steps", "5", *sets(*MODEL, SEPARATE))
    assert losses(tmp_path / "out") == losses(run)


@pytest.mark.mpi
@pytest.mark.slow
def test_two_ranks_see_the_same_mixture_documents_and_held_out_data(
    corpus: Path, run: Path, tmp_path: Path
) -> None:
    """At other degrees: losses, those of held-out data, and what eval says, to the sums of float32."""
    held = str(corpus / "held.jsonl")
    done = moec_process(
        "run", "tiny", "-n", "2", *mixture(corpus), "--validation", held, "--out", tmp_path / "out",
        "--steps", "5", *sets(*MODEL, *ON_TWO, EVALUATED, SEPARATE),
    )  # fmt: skip
    assert done.code == 0, done.err
    assert losses(tmp_path / "out") == pytest.approx(losses(run), rel=1e-4)
    for here, there in zip(metrics(tmp_path / "out"), metrics(run), strict=True):
        for name, loss in here.get("validation_loss", {}).items():
            assert loss == pytest.approx(there["validation_loss"][name], rel=1e-4)
    told = moec_process("eval", tmp_path / "out", "-n", "2", "--data", held, "--json")
    assert told.code == 0, told.err
    alone = evaluated(tmp_path / "out", "--data", held, *sets("parallel.shard=1", "parallel.expert=1"))
    assert json.loads(told.out)["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert json.loads(told.out)["expert_load"] == alone["expert_load"]
