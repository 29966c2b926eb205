"""Twenty steps as a plain loop: transformers' Mixtral, torch's AdamW, the same weights and batches."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

from moec.cli.main import run
from mpi_job import job

STEPS, TOTAL, WARMUP, FLOOR = 20, 30, 5, 0.1
LR, BETAS, EPS, DECAY, CLIP, AUX = 2e-3, (0.9, 0.95), 1e-8, 0.1, 0.5, 0.01
LAYOUT = ["--set", "parallel.shard=2", "--set", "parallel.expert=2"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random Mixtral as transformers saves it."""
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=288, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=8, num_experts_per_tok=2, max_position_embeddings=64,
        router_aux_loss_coef=AUX, pad_token_id=None, tie_word_embeddings=False, initializer_range=0.05,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("plain") / "checkpoint"
    MixtralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint: Path) -> tuple[list[dict[str, float]], Path]:
    """moec on two ranks, from that checkpoint: its metrics and its batches."""
    folder = checkpoint.parent
    train = {
        "sequence": 32, "batch": "6 sequences", "steps": TOTAL, "clip": CLIP,
        "optimizer": f"adamw(lr: {LR}, betas: {BETAS}, eps: {EPS}, weight_decay: {DECAY})",
        "schedule": f"cosine(warmup: {WARMUP}, floor: {FLOOR})",
    }  # fmt: skip
    sets = [part for name, value in train.items() for part in ("--set", f"train.{name}={value}")]
    data = ["--data", "builtin:python-docs"]
    assert run(["import", str(checkpoint), "-o", str(folder / "model")]) == 0
    bundle, steps = folder / "bundle", ["--steps", str(STEPS)]
    assert run(["compile", str(folder / "model/model.moe"), "-o", str(bundle), *LAYOUT, *sets]) == 0
    assert run(["batches", str(bundle), *data, *steps, "-o", str(folder / "b.safetensors")]) == 0
    arguments = ["run", bundle, *data, "--out", folder / "run", *steps]
    done = job(2, ["-m", "moec", *arguments, "--init", f"hf:{checkpoint}"], timeout_s=240)
    assert done.rc == 0, done.output
    lines = (folder / "run/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines], folder / "b.safetensors"


def _factor(step: int) -> float:
    if step < WARMUP:
        return step / WARMUP
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (TOTAL - WARMUP)))


def _groups(model: torch.nn.Module) -> list[dict[str, object]]:
    """Weight decay on matrices only; transformers stacks experts, so theirs have three dims."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return [{"params": matrices, "weight_decay": DECAY}, {"params": vectors, "weight_decay": 0.0}]


@pytest.mark.mpi
def test_losses_equal_those_of_a_plain_loop(
    ours: tuple[list[dict[str, float]], Path], checkpoint: Path
) -> None:
    metrics, batches = ours
    tensors = load_file(batches)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(_groups(model), lr=LR, betas=BETAS, eps=EPS)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _factor)
    assert tensors["tokens"].shape == (STEPS, 6, 32)

    for step in range(STEPS):
        tokens, targets = tensors["tokens"][step], tensors["targets"][step]
        out = model(input_ids=tokens, output_router_logits=True)
        loss = torch.nn.functional.cross_entropy(out.logits.flatten(0, 1), targets.flatten())
        (loss + AUX * out.aux_loss).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        here = metrics[step]

        assert here["lr"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        assert here["loss"] == pytest.approx(loss.item(), abs=1e-4)
        assert here["aux_loss"] == pytest.approx(out.aux_loss.item(), abs=1e-4)
        assert here["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)
        assert here["tokens"] == tokens.numel()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()

    assert metrics[-1]["loss"] < metrics[0]["loss"] - 0.5
